"""Fill in the figures of README's and docs' tables from the committed results.

    python benchmarks/tables.py

A table under a mark ``<!-- KIND: FILE ... -->`` keeps what a row begins with, which says what it is
about, and its words; the figures are written anew. A row of something new is typed without figures.
Accuracies are in percent. The kinds:

- figures: method (and bundle, where methods have several; of ``held_out.csv`` setting and method),
  words; for each file accuracy on clean images and its mean over the corruptions that are reported.
- adapting: method, bundle, images; the bundle's frozen classifier (clean, mean over corruptions),
  the same with batch statistics, the method at learning rate 0, and the method (clean, mean ± its
  deviation over seeds, where there are several).
- by-corruption: method, bundle, images; the method under each corruption of the header, the best of
  those on as many images as the first row in bold.
- changed: method, steps; each change of the header.
- agreement: method, corruption; cosine and fall, with their standard errors.
- claims: claim, place; images, points with their interval; words.
- semantics: method, part, steps; index and drift, means over corruptions.
- drift: method, statistics, steps; drift, and under how many corruptions it grew.
"""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from statistics import mean, stdev

from acclimate.evaluate.measure import LR0
from acclimate.files import write_text
from acclimate.quickstart import HELD_OUT

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARKED = re.compile(r"<!-- ([a-z-]+): ([^>]+) -->\n((?:\|.*\n)+)")
CLEAN = "none"

Row = list[str]
Filler = Callable[[Sequence[Path], Row, list[Row]], list[Row]]
"""From files, the header and rows to rows with their figures."""


def filled(page: str, root: Path = ROOT) -> str:
    """A page with all marked tables filled.

    Raises:
        KeyError: a row is about something that was not measured.
    """

    def fill(match: re.Match[str]) -> str:
        kind, sources, table = match.groups()
        header, rule, *lines = table.splitlines()
        paths = [root / source for source in sources.split()]
        rows = KINDS[kind](paths, cells_of(header), [cells_of(line) for line in lines])
        written = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        return f"<!-- {kind}: {sources} -->\n{header}\n{rule}\n{written}\n"

    return MARKED.sub(fill, page)


def cells_of(line: str) -> Row:
    """A row's cells."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def bare(cells: Iterable[str]) -> tuple[str, ...]:
    """Cells without emphasis."""
    return tuple(cell.strip("*`") for cell in cells)


def percent(value: float | None) -> str:
    """A fraction, or that it was not measured."""
    return "-" if value is None else f"{100 * value:.1f}"


@cache
def read(path: Path) -> list[dict[str, str]]:
    """A table's rows."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@cache
def accuracies(path: Path) -> dict[tuple[str, ...], list[float]]:
    """By method, bundle, number of images, corruption and seed; several where severities are."""
    found = defaultdict(list)
    for row in read(path):
        if row["corruption"] not in HELD_OUT:
            names = ("method", "bundle", "n_images", "corruption", "seed")
            found[tuple(row.get(name, "") for name in names)].append(float(row["accuracy"]))
    return found


def both(path: Path, *row: str) -> tuple[float, float] | None:
    """Clean, and the mean over corruptions; None of what was not measured."""
    found = {key: values for key, values in accuracies(path).items() if key[: len(row)] == row}
    clean = [value for key, values in found.items() if key[3] == CLEAN for value in values]
    corrupted = [value for key, values in found.items() if key[3] != CLEAN for value in values]
    return (mean(clean), mean(corrupted)) if clean and corrupted else None


def deviation(path: Path, *row: str) -> str:
    """How far the mean over corruptions varies over seeds, in points; nothing of one seed."""
    seeds = defaultdict(list)
    for (*name, corruption, seed), values in accuracies(path).items():
        if tuple(name) == row and corruption != CLEAN:
            seeds[seed] += values
    means = [mean(values) for values in seeds.values()]
    return f" ± {100 * stdev(means):.1f}" if len(means) > 1 else ""


def figures(sources: Sequence[Path], header: Row, rows: list[Row]) -> list[Row]:
    """Two columns for each file, at the end."""

    def of(path: Path, row: Row) -> tuple[float, float]:
        if path.name == "held_out.csv":
            [found] = [r for r in read(path) if (r["setting"], r["method"]) == bare(row[:2])]
            return float(found["clean"]), float(found["mean"])
        several = len({key[1] for key in accuracies(path)}) > 1
        if (found := both(path, *bare(row[: 1 + several]))) is None:
            raise KeyError(row[0])
        return found

    figured = 2 * len(sources)
    return [
        row[: len(header) - figured]
        + [percent(value) for path in sources for value in of(path, row)]
        for row in rows
    ]


def adapting(sources: Sequence[Path], header: Row, rows: list[Row]) -> list[Row]:
    """Six columns of a method and its bundle."""
    [path] = sources

    def of(row: Row) -> Row:
        method, *rest = bare(row[:3])
        frozen, statistics, still, learned = (
            both(path, name, *rest) for name in ("source", "ptbn", method + LR0, method)
        )
        nothing = (None, None)
        values = (*(frozen or nothing), (statistics or nothing)[1], (still or nothing)[1])
        clean, corrupted = map(percent, learned or nothing)
        spread = deviation(path, method, *rest)
        return [*row[:3], *map(percent, values), clean, corrupted + spread]

    return [of(row) for row in rows]


def by_corruption(sources: Sequence[Path], header: Row, rows: list[Row]) -> list[Row]:
    """A column for each corruption."""
    [path] = sources
    places = [CLEAN if name == "clean" else name.replace(" ", "_") for name in header[3:]]
    found: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for (*name, _), values in accuracies(path).items():
        found[tuple(name)] += values
    table = [[mean(found[*bare(row[:3]), place]) for place in places] for row in rows]
    rivals = [values for row, values in zip(rows, table) if row[2] == rows[0][2]]
    best = [max(values) for values in zip(*rivals)]
    return [
        row[:3]
        + [
            f"**{percent(value)}**" if value == top and values in rivals else percent(value)
            for value, top in zip(values, best)
        ]
        for row, values in zip(rows, table)
    ]


def changed(sources: Sequence[Path], header: Row, rows: list[Row]) -> list[Row]:
    """A column for each change."""
    [path] = sources
    found = {(r["method"], r["steps"], r["change"]): float(r["accuracy"]) for r in read(path)}
    return [
        row[:2] + [percent(found.get((*bare(row[:2]), change))) for change in header[2:]]
        for row in rows
    ]


def agreement(sources: Sequence[Path], header: Row, rows: list[Row]) -> list[Row]:
    """Two columns."""
    [path] = sources
    found = {(row["method"], row["corruption"]): row for row in read(path)}

    def of(row: Row, name: str) -> str:
        measured = found[bare(row[:2])]
        return f"{float(measured[name]):+.3f} ± {float(measured[f'{name}_error']):.3f}"

    return [row[:2] + [of(row, name) for name in ("cosine", "fall")] for row in rows]


def claims(sources: Sequence[Path], header: Row, rows: list[Row]) -> list[Row]:
    """Two columns in the middle."""
    [path] = sources
    found = {(row["claim"], row["where"]): row for row in read(path)}

    def of(row: Row) -> Row:
        measured = found[bare(row[:2])]
        limits = (100 * float(measured[name]) for name in ("difference", "low", "high"))
        return [measured["images"], "{:+.1f} [{:+.1f}, {:+.1f}]".format(*limits)]

    return [row[:2] + of(row) + row[4:] for row in rows]


def semantics(sources: Sequence[Path], header: Row, rows: list[Row]) -> list[Row]:
    """Two columns."""
    [path] = sources
    record = json.loads(path.read_text())
    found = defaultdict(list)
    for values in record["rows"]:
        measured = dict(zip(record["columns"], values))
        name = (measured["method"], measured["part"], str(measured["steps"]))
        found[name].append((measured["davies_bouldin"], measured["drift"]))

    def of(row: Row) -> Row:
        indices, drifts = zip(*found[bare(row[:3])])
        return [f"{mean(indices):.2f}", "-" if None in drifts else f"{mean(drifts):.1f}"]

    return [row[:3] + of(row) for row in rows]


def drift(sources: Sequence[Path], header: Row, rows: list[Row]) -> list[Row]:
    """Two columns."""
    [path] = sources
    found = {
        (row["method"], row["statistics"], row["steps"]): [
            f"{float(row['drift']):.2f}",
            row["worse"],
        ]
        for row in read(path)
        if row["drift"] != "nan"
    }
    return [row[:3] + found[bare(row[:3])] for row in rows]


KINDS: dict[str, Filler] = {
    "figures": figures,
    "adapting": adapting,
    "by-corruption": by_corruption,
    "changed": changed,
    "agreement": agreement,
    "claims": claims,
    "semantics": semantics,
    "drift": drift,
}


if __name__ == "__main__":
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            write_text(page, new)
            print(f"{page.relative_to(ROOT)} is filled")
