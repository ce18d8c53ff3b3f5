"""Instructions to run a grid again, from its manifest."""

import shlex
from collections.abc import Iterator, Mapping

from acclimate.methods import RECIPES

Provenance = dict[str, object]
"""Values are text, lists of lines, or names and values."""


def provenance_of(manifest: Mapping) -> Provenance:
    """Commands, bundles, commits and machine of a grid."""
    bundles: Mapping[str, Mapping] = manifest["bundles"]
    shown: Provenance = {
        "commands": [*map(command, manifest["grids"]), "acclimate report DIR"],
        "commits": list(manifest["commits"]),
        "machine": dict(manifest["machine"]),
    }
    return shown | {f"bundle {label}": _bundle(record) for label, record in bundles.items()}


def command(grid: Mapping) -> str:
    """The command of a grid; BUNDLES and DATA stand for where these lie."""
    words = ["acclimate", "bench", *(f"BUNDLES/{label}" for label in grid["bundles"])]
    words += ["--data", str(grid.get("dataset", "DATA")), "--out", "DIR"]
    for name in ("methods", "domains", "corruptions", "severities", "orders", "seeds"):
        if grid.get(name):
            words += [f"--{name}", *map(str, grid[name])]
    if "images" in grid:
        words += ["--images", str(grid["images"])]
    words += ["--batch", str(grid["batch"])]
    return shlex.join([*words, *([] if grid["curve"] else ["--no-curve"])])


def _bundle(record: Mapping) -> dict[str, object]:
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


def flat(values: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested values by dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
