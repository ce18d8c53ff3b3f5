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
- gradients: method; Pearson's r with its interval; words.
- drift: method, statistics, steps; drift, and under how many corruptions it grew.
"""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean, stdev

from common import start

from acclimate.evaluate.measure import LR0
from acclimate.files import write_text
from acclimate.quickstart import HELD_OUT

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARK = re.compile(r"<!-- [a-z-]+: [^>]+\.(?:csv|json) -->")
MARKED = re.compile(r"<!-- ([a-z-]+): ([^>]+) -->\n((?:\|.*\n)+)")
CLEAN = "none"

Cells = list[str]
Row = tuple[str, ...]
"""Method, bundle and number of images."""
Stream = tuple[str, str]
"""Corruption and seed."""
Found = dict[Stream, float]
Filler = Callable[[Sequence[Path], Cells, list[Cells]], list[Cells]]
"""From files, the header and rows to rows with their figures.

Raises KeyError if a row is about something that was not measured."""


def filled(page: str, root: Path = ROOT) -> str:
    """A page with all marked tables filled.

    Raises:
        KeyError: a row is about something that was not measured, or a mark has no table below it.
    """
    if len(MARKED.findall(page)) != len(MARK.findall(page)):
        raise KeyError("there is a mark without a table right below it")

    def fill(match: re.Match[str]) -> str:
        kind, sources, table = match.groups()
        header, rule, *lines = table.splitlines()
        paths = [root / source for source in sources.split()]
        rows = KINDS[kind](paths, cells_of(header), [cells_of(line) for line in lines])
        written = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        return f"<!-- {kind}: {sources} -->\n{header}\n{rule}\n{written}\n"

    return MARKED.sub(fill, page)


def cells_of(line: str) -> Cells:
    """A row's cells."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def bare(cells: Iterable[str]) -> Row:
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
def accuracies(path: Path) -> dict[Row, Found]:
    """By method, bundle and number of images; of several severities the greatest counts."""
    found: dict[Row, Found] = defaultdict(dict)
    for row in sorted(read(path), key=lambda row: float(row.get("severity", 0))):
        if row["corruption"] not in HELD_OUT:
            name = tuple(row.get(part, "") for part in ("method", "bundle", "n_images"))
            found[name][row["corruption"], row.get("seed", "")] = float(row["accuracy"])
    return found


def found_of(path: Path, *row: str) -> Found:
    """What was measured of rows that begin so, without seeds that lack a corruption.

    Raises:
        KeyError: nothing was, on corrupted images.
    """
    mine = (found for key, found in accuracies(path).items() if key[: len(row)] == row)
    found = {stream: value for some in mine for stream, value in some.items()}
    places, seeds = ({stream[part] for stream in found} for part in (0, 1))
    whole = {seed for seed in seeds if all((place, seed) in found for place in places)}
    if not places - {CLEAN} or not whole:
        raise KeyError(f"{path.name} has nothing of {' '.join(row)}")
    return {stream: value for stream, value in found.items() if stream[1] in whole}


def both(found: Found, of: Iterable[Stream]) -> list[float | None]:
    """Clean, and the mean over corruptions; None of what was not measured on all of these."""
    parts = ([s for s in of if s[0] == CLEAN], [s for s in of if s[0] != CLEAN])
    return [
        mean(found[stream] for stream in part) if part and all(s in found for s in part) else None
        for part in parts
    ]


def deviation(found: Found) -> str:
    """How far the mean over corruptions varies over seeds, in points; nothing of one seed."""
    seeds = defaultdict(list)
    for (place, seed), value in found.items():
        if place != CLEAN:
            seeds[seed].append(value)
    means = [mean(values) for values in seeds.values()]
    return f" ± {100 * stdev(means):.1f}" if len(means) > 1 else ""


def figures(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """Two columns for each file, at the end."""

    def of(path: Path, row: Cells) -> list[float | None]:
        if path.name == "held_out.csv":
            measured = {(r["setting"], r["method"]): r for r in read(path)}[bare(row[:2])]
            return [float(measured["clean"]), float(measured["mean"])]
        several = len({bundle for _, bundle, _ in accuracies(path)}) > 1
        found = found_of(path, *bare(row[: 1 + several]))
        return both(found, found)

    words = len(header) - 2 * len(sources)
    return [row[:words] + [percent(x) for path in sources for x in of(path, row)] for row in rows]


def adapting(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """Six columns of a method and its bundle, all of the method's own seeds and corruptions."""
    [path] = sources

    def of(row: Cells) -> Cells:
        method, *rest = bare(row[:3])
        mine = found_of(path, method, *rest)
        frozen, statistics, still = (
            both(accuracies(path).get((name, *rest), {}), mine)
            for name in ("source", "ptbn", method + LR0)
        )
        *words, last = map(percent, (*frozen, statistics[1], still[1], *both(mine, mine)))
        return [*row[:3], *words, last + deviation(mine)]

    return [of(row) for row in rows]


def by_corruption(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """A column for each corruption."""
    [path] = sources
    places = [CLEAN if name == "clean" else name.replace(" ", "_") for name in header[3:]]

    def of(row: Cells) -> Cells:
        found = found_of(path, *bare(row[:3]))
        return [percent(mean(v for s, v in found.items() if s[0] == place)) for place in places]

    table = [of(row) for row in rows]
    rivals = [values for row, values in zip(rows, table) if row[2] == rows[0][2]]
    best = [max(values, key=float) for values in zip(*rivals)]

    def bold(row: Cells, values: Cells) -> Cells:
        may = row[2] == rows[0][2]
        return [f"**{v}**" if may and v == top else v for v, top in zip(values, best)]

    return [row[:3] + bold(row, values) for row, values in zip(rows, table)]


def changed(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """A column for each change."""
    [path] = sources
    found = {(r["method"], r["steps"], r["change"]): float(r["accuracy"]) for r in read(path)}
    known = {(row["method"], row["steps"]) for row in read(path)}
    changes = {row["change"] for row in read(path)}
    for name in [*(set(header[2:]) - changes), *({bare(row[:2]) for row in rows} - known)]:
        raise KeyError(f"{path.name} has nothing of {name}")
    return [
        row[:2] + [percent(found.get((*bare(row[:2]), change))) for change in header[2:]]
        for row in rows
    ]


def agreement(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """Two columns."""
    [path] = sources
    found = {(row["method"], row["corruption"]): row for row in read(path)}

    def of(row: Cells, name: str) -> str:
        measured = found[bare(row[:2])]
        return f"{float(measured[name]):+.3f} ± {float(measured[f'{name}_error']):.3f}"

    return [row[:2] + [of(row, name) for name in ("cosine", "fall")] for row in rows]


def claims(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """Two columns in the middle."""
    [path] = sources
    found = {(row["claim"], row["where"]): row for row in read(path)}

    def of(row: Cells) -> Cells:
        measured = found[bare(row[:2])]
        limits = (100 * float(measured[name]) for name in ("difference", "low", "high"))
        return [measured["images"], "{:+.1f} [{:+.1f}, {:+.1f}]".format(*limits)]

    return [row[:2] + of(row) + row[4:] for row in rows]


def semantics(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """Two columns."""
    [path] = sources
    record = json.loads(path.read_text())
    found = defaultdict(list)
    for values in record["rows"]:
        measured = dict(zip(record["columns"], values))
        name = (measured["method"], measured["part"], str(measured["steps"]))
        found[name].append((measured["davies_bouldin"], measured["drift"]))

    def of(row: Cells) -> Cells:
        indices, drifts = zip(*dict(found)[bare(row[:3])])
        return [f"{mean(indices):.2f}", "-" if None in drifts else f"{mean(drifts):.1f}"]

    return [row[:3] + of(row) for row in rows]


def gradients(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """A column in the middle."""
    [path] = sources
    record = json.loads(path.read_text())

    def of(row: Cells) -> str:
        measured = record[f"r_gain_{bare(row)[0].replace('-', '_')}"]
        return "{r:+.2f} [{low:+.2f}, {high:+.2f}]".format(**measured)

    return [[row[0], of(row), *row[2:]] for row in rows]


def drift(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
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
    "gradients": gradients,
    "drift": drift,
}


@dataclass(frozen=True)
class Arguments:
    """Fill in all pages."""


def main(arguments: Arguments) -> None:
    """Write the pages that change."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            write_text(page, new)
            print(f"{page.relative_to(ROOT)} is filled")


if __name__ == "__main__":
    start(main, Arguments)
