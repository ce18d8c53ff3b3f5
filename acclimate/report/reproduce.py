"""Instructions to run a grid again, from its manifest."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from acclimate.methods import RECIPES

Provenance = dict[str, object]
"""Values are text, lists of lines, or names and values."""


def provenance_of(manifest: Mapping[str, Any]) -> Provenance:
    """Commands, bundles, commits and machine of a grid."""
    bundles: Mapping[str, Mapping[str, Any]] = manifest["bundles"]
    shown: Provenance = {
        "commands": [*map(command, manifest["grids"]), "acclimate report DIR"],
        "notes": list(
            dict.fromkeys(n for grid in manifest["grids"] for n in grid.get("notes", ()))
        ),
        "commits": list(manifest["commits"]),
        "machine": dict(manifest["machine"]),
    }
    shown = {name: value for name, value in shown.items() if value}
    return shown | {f"bundle {label}": _bundle(record) for label, record in bundles.items()}


def command(grid: Mapping[str, Any]) -> str:
    """The command of a grid, with every option that determines its results.

    DIR stands for a new folder. In a grid of an older acclimate, or one that was run from Python,
    BUNDLES stands for where the bundles lie, and the data is named as in the results.
    """
    options = grid.get("options", {})
    places = options.get("bundles", {})
    words = ["acclimate", "bench"]
    words += [places.get(label, f"BUNDLES/{label}") for label in grid["bundles"]]
    words += ["--data", str(options.get("data", grid.get("dataset", "DATA"))), "--out", "DIR"]
    for name in ("root", "size"):
        if name in options:
            words += [f"--{name}", str(options[name])]
    for name in ("methods", "domains", "corruptions", "severities", "orders", "seeds"):
        if grid.get(name):
            words += [f"--{name}", *map(str, grid[name])]
    images = options.get("images") if options else grid.get("images")
    if images is not None:
        words += ["--images", str(images)]
    words += ["--batch", str(grid["batch"])]
    words += ["--parts"] if grid.get("parts") else []
    words += ["--window", str(grid["window"])] if grid.get("window") else []
    if options.get("threads", 1) != 1:
        words += ["--threads", str(options["threads"])]
    words += ["--trust-code"] if options.get("trust_code") else []
    return shlex.join([*words, *([] if grid["curve"] else ["--no-curve"])])


def _bundle(record: Mapping[str, Any]) -> dict[str, object]:
    """A bundle and its training, without settings of stages that it did not have."""
    made = dict(record["provenance"])
    settings = dict(made.pop("settings", {}))
    stages = RECIPES[record["recipe"]].stages if record["recipe"] in RECIPES else ()
    own = {
        name: value
        for name, value in settings.items()
        if name in stages or not (isinstance(value, Mapping) and "epochs" in value)
    }
    names = ("recipe", "architecture", "weights_sha256")
    return dict(flat({name: record[name] for name in names} | made | own))


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested values by dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
