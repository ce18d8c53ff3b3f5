"""One study's results that were measured in parts: on several machines, or at several times.

    python studies/methods.py --data cifar10.zip --out a --recipes cta --results parts/a
    python studies/methods.py --data cifar10.zip --out b --recipes y --results parts/b
    python studies/join.py parts/a parts/b --results results/methods

A part is a folder of ``results.csv``, ``manifest.json`` and, of a study, ``settings.json``,
``claims.csv`` and ``steps.csv``. Parts of one study share bundles and settings: a bundle of one
name must have the same weights in all of them, which training anew with the same seed gives on the
same kind of machine, and a method the same settings. Of what several parts measured alike the last
one's line counts, and how far they differ is printed. Times are of each part's own machine.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from acclimate.commands.script import start, write_table
from acclimate.errors import InputError
from acclimate.evaluate.cell import Cell
from acclimate.evaluate.grid_run import MANIFEST, RESULTS, STORE
from acclimate.evaluate.results import COLUMNS, line_of, read_results, rows_of
from acclimate.storage.atomic import write_text

SETTINGS = "settings.json"
DOMAIN = "domain"
"""A column that older files lack."""
VERDICTS = {"claims.csv": ("claim", "where"), "steps.csv": ("method", "bundle")}
"""Files of `claims`, and the columns that tell their rows apart."""

Line = tuple[Cell, dict[str, str]]
"""A cell, and its line of the file."""
Lines = dict[tuple, Line]
"""Lines by their place, see `line_of`."""


@dataclass(frozen=True)
class Arguments:
    """What to join."""

    parts: tyro.conf.Positional[tuple[Path, ...]]
    """Folders, the latest last."""
    results: Path
    """Where the files go; it may be one of the parts."""


def main(arguments: Arguments) -> None:
    """Read all, compare, write."""
    parts, results = arguments.parts, arguments.results
    if not parts:
        raise InputError("there is nothing to join; name folders of results.")
    if (results / STORE).exists():
        raise InputError(f"{results} has a store, whose results these would hide; name another.")
    records = {MANIFEST: joined_manifest({part: read_json(part / MANIFEST) for part in parts})}
    if runs := joined_runs(parts):
        records[SETTINGS] = {"runs": runs}
    lines: Lines = {}
    for part in parts:
        mine = read_lines(part)
        print(f"{part}: {len(mine)} lines{told_twice(lines, mine)}")
        lines |= mine
    results.mkdir(parents=True, exist_ok=True)
    write_text(results / RESULTS, as_text([lines[key] for key in sorted(lines)]))
    for name, columns in VERDICTS.items():
        if rows := joined_rows([part / name for part in parts], columns):
            write_table(results / name, rows)
    for name, record in records.items():
        write_text(results / name, json.dumps(record, indent=2) + "\n")
    print(f"{results}: {len(lines)} lines")


def as_text(lines: Sequence[Line]) -> str:
    """The lines as a file, with errors relative to the frozen classifiers of all parts."""
    text = io.StringIO()
    columns = [name for name in COLUMNS if any(name in line for _, line in lines)]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for (_, line), row in zip(lines, rows_of([cell for cell, _ in lines])):
        writer.writerow({**line, "corruption_error": row["corruption_error"]})
    return text.getvalue()


def told_twice(known: Lines, mine: Lines) -> str:
    """A remark on lines that another part has too, and on how far apart they are."""
    twice = known.keys() & mine.keys()
    if not twice:
        return ""
    apart = (abs(known[key][0].accuracy - mine[key][0].accuracy) for key in twice)
    return f", {len(twice)} again: accuracies differ by at most {100 * max(apart):.2f} points"


def read_lines(part: Path) -> Lines:
    """The lines of a part.

    Raises:
        InputError: there are none, they are damaged, or two are of the same.
    """
    cells = read_results(part / RESULTS)
    with (part / RESULTS).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if any(set(row) | {DOMAIN} != set(COLUMNS) for row in rows):
        raise InputError(f"{part / RESULTS} has other columns than acclimate bench writes.")
    found = {line_of(cell): (cell, row) for cell, row in zip(cells, rows)}
    if len(found) < len(cells):
        raise InputError(f"{part / RESULTS} has two lines of one method, bundle and stream.")
    return found


def joined_rows(paths: Sequence[Path], columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of all tables that exist; of rows about the same the last."""
    found = {}
    for path in (path for path in paths if path.exists()):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        known = [*found.values(), *rows][:1]
        if any(row.keys() != known[0].keys() or not {*columns} <= row.keys() for row in rows):
            raise InputError(f"{path} is no table of claims.py, or of another version's.")
        found |= {tuple(row[name] for name in columns): row for row in rows}
    return list(found.values())


def read_json(path: Path) -> dict[str, Any]:
    """A record.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is missing or damaged.") from error


def joined_runs(parts: Sequence[Path]) -> list[dict[str, Any]]:
    """The settings of all runs, where a study wrote them down."""
    found = [read_json(path) for part in parts if (path := part / SETTINGS).exists()]
    runs = [run for record in found for run in record.get("runs", [record])]
    return [run for place, run in enumerate(runs) if run not in runs[:place]]


def joined_manifest(manifests: Mapping[Path, Mapping[str, Any]]) -> dict[str, Any]:
    """One manifest of all parts; where their machines differ it names each.

    Raises:
        InputError: two bundles of one name have other weights, a method has other settings, or a
            manifest is damaged.
    """
    joined: dict[str, Any] = {"grids": [], "bundles": {}, "methods": {}, "commits": []}
    machine: dict[str, list[str]] = {}
    for part, manifest in manifests.items():
        try:
            for label, record in manifest["bundles"].items():
                known = joined["bundles"].setdefault(label, record)
                if known["weights_sha256"] != record["weights_sha256"]:
                    raise InputError(f"{part} measured another bundle of the name {label}.")
            for name, settings in manifest["methods"].items():
                if joined["methods"].setdefault(name, settings) != settings:
                    raise InputError(f"{part} measured {name} with other settings.")
            joined["grids"] += [grid for grid in manifest["grids"] if grid not in joined["grids"]]
            joined["commits"] = sorted({*joined["commits"], *manifest["commits"]})
            for name, value in manifest["machine"].items():
                machine.setdefault(name, []).extend(value.split(" / "))
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{part / MANIFEST} is damaged.") from error
    told = {name: " / ".join(dict.fromkeys(values)) for name, values in machine.items()}
    return joined | {"machine": told}


if __name__ == "__main__":
    start(main, Arguments)
