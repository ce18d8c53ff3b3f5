"""One study's results that were measured in parts: on several machines, or at several times.

    python benchmarks/join.py runs/a/grid runs/b/grid --results results/main

A part is a folder of ``results.csv``, ``manifest.json`` and, of a benchmark, ``settings.json``.
Parts of one study share bundles and settings: a bundle of one name must have the same weights in
all of them, which training anew with the same seed gives on the same kind of machine, and a method
the same settings. Of what several parts measured alike the last one's line counts, and how far they
differ is printed.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from common import start

from acclimate.errors import InputError
from acclimate.evaluate.bench import MANIFEST, RESULTS
from acclimate.evaluate.results import COLUMNS, line_of, read_results
from acclimate.files import write_text

SETTINGS = "settings.json"

Lines = dict[tuple, dict[str, str]]
"""By what they are about: the lines of a file as they stand there."""


@dataclass(frozen=True)
class Arguments:
    """What to join."""

    parts: tyro.conf.Positional[tuple[Path, ...]]
    """Folders, the latest last."""
    results: Path
    """Where the files go; it may be one of the parts."""


def main(arguments: Arguments) -> None:
    """Read all, compare, write."""
    if not arguments.parts:
        raise InputError("there is nothing to join; name folders of results.")
    manifests = [read_manifest(part) for part in arguments.parts]
    manifest = joined_manifest(arguments.parts, manifests)
    lines: Lines = {}
    for part in arguments.parts:
        mine = read_lines(part)
        print(f"{part}: {len(mine)} lines{told_twice(lines, mine)}")
        lines |= mine
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines[key] for key in sorted(lines))
    settings = {"runs": [run for part in arguments.parts for run in runs_of(part)]}
    arguments.results.mkdir(parents=True, exist_ok=True)
    write_text(arguments.results / RESULTS, text.getvalue())
    for name, record in ((MANIFEST, manifest), (SETTINGS, settings)):
        write_text(arguments.results / name, json.dumps(record, indent=2) + "\n")
    print(f"{arguments.results}: {len(lines)} lines")


def told_twice(known: Lines, mine: Lines) -> str:
    """How many lines are known from another part, and how far apart they are."""
    twice = known.keys() & mine.keys()
    if not twice:
        return ""
    apart = (abs(float(known[key]["accuracy"]) - float(mine[key]["accuracy"])) for key in twice)
    return f", {len(twice)} again: accuracies differ by at most {100 * max(apart):.2f} points"


def read_lines(part: Path) -> Lines:
    """The lines of a part.

    Raises:
        InputError: there are none, they are damaged, or two are of the same.
    """
    cells = read_results(part / RESULTS)
    with (part / RESULTS).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    keys = [line_of(cell) for cell in cells]
    if len({*keys}) < len(keys):
        raise InputError(f"{part / RESULTS} has two lines of one method, bundle and stream.")
    return dict(zip(keys, rows))


def runs_of(part: Path) -> list[dict[str, Any]]:
    """The settings of a part's runs; none where they were not written down."""
    path = part / SETTINGS
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    return found.get("runs", [found])


def read_manifest(part: Path) -> dict[str, Any]:
    """A part's manifest.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        manifest = json.loads((part / MANIFEST).read_text(encoding="utf-8"))
        return {name: manifest[name] for name in ("grids", "bundles", "methods", "commits")} | {
            "machine": manifest["machine"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{part / MANIFEST} is missing or damaged.") from error


def joined_manifest(parts: Sequence[Path], manifests: Sequence[Mapping[str, Any]]) -> dict:
    """One manifest of all.

    Raises:
        InputError: two bundles of one name have other weights, or a method has other settings.
    """
    joined: dict[str, Any] = {"grids": [], "bundles": {}, "methods": {}, "commits": []}
    for part, manifest in zip(parts, manifests):
        for label, record in manifest["bundles"].items():
            known = joined["bundles"].setdefault(label, record)
            if known["weights_sha256"] != record["weights_sha256"]:
                raise InputError(f"{part} measured another bundle of the name {label}.")
        for name, settings in manifest["methods"].items():
            if joined["methods"].setdefault(name, settings) != settings:
                raise InputError(f"{part} measured {name} with other settings.")
        joined["grids"] += [grid for grid in manifest["grids"] if grid not in joined["grids"]]
        joined["commits"] = sorted({*joined["commits"], *manifest["commits"]})
        joined["machine"] = manifest["machine"]
    return joined


if __name__ == "__main__":
    start(main, Arguments)
