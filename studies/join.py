"""Join the results of a study that was measured in parts: on several machines, or in several runs.

    python studies/methods.py --data cifar10.zip --out a --recipes cta --results parts/a
    python studies/methods.py --data cifar10.zip --out b --recipes y --results parts/b
    python studies/join.py parts/a parts/b --results results/methods

A part is a folder with ``results.csv``, ``manifest.json`` and optionally ``settings.json``,
``claims.csv`` and ``steps.csv``. In all parts, bundles of the same name must have the same weights,
and a method the same settings. Training again with the same seed on the same kind of machine gives
the same weights. If several parts have the same measurement, the result has the last part's line,
and the largest difference is printed. Times are those of each part's machine.
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
LATER = {"domain", "window", "card"}
"""Columns that files of earlier versions lack."""
CLAIM_TABLES = {"claims.csv": ("claim", "where"), "steps.csv": ("method", "bundle")}
"""Files of `claims`, and the columns that identify their rows."""

Line = tuple[Cell, dict[str, str]]
"""A cell and its line of the file."""
Lines = dict[tuple, Line]
"""Lines by their key, see `line_of`."""


@dataclass(frozen=True)
class Arguments:
    """The folders to join, and the folder for results."""

    parts: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of the parts, the latest last."""
    results: Path
    """Folder for the joined files; it may be one of the parts."""


def main(arguments: Arguments) -> None:
    """Read the parts, compare and join them, write the result."""
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
        part_lines = read_lines(part)
        print(f"{part}: {len(part_lines)} lines{repeated(lines, part_lines)}")
        lines |= part_lines
    results.mkdir(parents=True, exist_ok=True)
    write_text(results / RESULTS, as_text([lines[key] for key in sorted(lines)]))
    for name, columns in CLAIM_TABLES.items():
        if rows := joined_rows([part / name for part in parts], columns):
            write_table(results / name, rows)
    for name, record in records.items():
        write_text(results / name, json.dumps(record, indent=2) + "\n")
    print(f"{results}: {len(lines)} lines")


def as_text(lines: Sequence[Line]) -> str:
    """The lines as CSV, with errors relative to the frozen classifiers of all parts."""
    text = io.StringIO()
    columns = [name for name in COLUMNS if any(name in line for _, line in lines)]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for (_, line), row in zip(lines, rows_of([cell for cell, _ in lines])):
        writer.writerow({**line, "corruption_error": row["corruption_error"]})
    return text.getvalue()


def repeated(earlier: Lines, lines: Lines) -> str:
    """Number of lines that an earlier part has too, and their largest difference in accuracy."""
    both = earlier.keys() & lines.keys()
    if not both:
        return ""
    differences = (abs(earlier[key][0].accuracy - lines[key][0].accuracy) for key in both)
    return f", {len(both)} again: accuracies differ by at most {100 * max(differences):.2f} points"


def read_lines(part: Path) -> Lines:
    """The lines of a part.

    Raises:
        InputError: there are no lines, they are damaged, or two have the same key.
    """
    cells = read_results(part / RESULTS)
    with (part / RESULTS).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if any(set(row) | LATER != set(COLUMNS) for row in rows):
        raise InputError(f"{part / RESULTS} has other columns than acclimate bench writes.")
    lines = {line_of(cell): (cell, row) for cell, row in zip(cells, rows)}
    if len(lines) < len(cells):
        raise InputError(f"{part / RESULTS} has two lines of one method, bundle and stream.")
    return lines


def joined_rows(paths: Sequence[Path], columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of all existing tables. Of rows with the same key only the last is kept."""
    joined = {}
    for path in (path for path in paths if path.exists()):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        first = [*joined.values(), *rows][:1]
        if any(row.keys() != first[0].keys() or not {*columns} <= row.keys() for row in rows):
            raise InputError(f"{path} is no table of claims.py, or of another version's.")
        joined |= {tuple(row[name] for name in columns): row for row in rows}
    return list(joined.values())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON record.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is missing or damaged.") from error


def joined_runs(parts: Sequence[Path]) -> list[dict[str, Any]]:
    """Settings of all runs, from the parts that have them."""
    records = [read_json(path) for part in parts if (path := part / SETTINGS).exists()]
    runs = [run for record in records for run in record.get("runs", [record])]
    return [run for index, run in enumerate(runs) if run not in runs[:index]]


def joined_manifest(manifests: Mapping[Path, Mapping[str, Any]]) -> dict[str, Any]:
    """Join the manifests of all parts; if their machines differ, all are named.

    Raises:
        InputError: bundles of one name have different weights, a method has different settings, or
            a manifest is damaged.
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
    machines = {name: " / ".join(dict.fromkeys(values)) for name, values in machine.items()}
    return joined | {"machine": machines}


if __name__ == "__main__":
    start(main, Arguments)
