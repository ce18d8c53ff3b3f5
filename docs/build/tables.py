"""Fill in the figures of README's and docs' tables from the committed results.

    python docs/build/tables.py

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
- arrivals: method, bundle; for each size of batches that come shuffled, or order of batches of 128,
  the mean over corruptions.
- gains: method as it is called, bundle, images; for each protocol and size of batches the gain over
  the bundle's frozen classifier with its interval, and of the frozen classifier its accuracy: means
  over the corruptions. With another column of the file behind them, such as "clean": that.
- along: method, bundle, order; accuracy in each tenth of the streams, in batches of 128.
- architectures: library; how many were tried, fit in memory and time, were split; heads by kind;
  logits equal bit by bit; and how many run each method.
- refusals: column of the file, part of the reason; how many, and the first three. Each reason in
  the file needs a row.
- photographs: method; for each size of batches in the header clean / corrupted.
- columns: what the first column names; the file's columns of the header's names, as they stand.
- harm: stream; the frozen classifier's accuracy, each method's gain over it, and of "guarded" and a
  method the gain with its interval.
- harm-summary: method; streams; of the unguarded method the lowest gain, and how many streams are
  more than half a point below, in brackets with their whole interval; the same guarded; the share
  of the gain that is kept, in the mean and at least.
- harm-changes: way in which streams are judged; streams, images, changes found, changes told, false
  alarms, in brackets in 20,000 images.
- serving: server, clients; images per second, and percentiles of the latency in ms.
- temperature: method, temperature (of the classifier "-"); accuracy on clean images, and its mean
  over corruptions.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean, stdev

import guarded
import networks
import records
from records import Cells, Filler, Row, bare, percent, read

from acclimate.commands.script import start
from acclimate.evaluate.variant import Variant
from acclimate.quickstart import HELD_OUT
from acclimate.storage.atomic import write_text

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")))
MARK = re.compile(r"<!-- [a-z-]+: [^>]+\.(?:csv|json) -->")
MARKED = re.compile(r"<!-- ([a-z-]+): ([^>]+) -->\n((?:\|.*\n)+)")
CLEAN = "none"

Stream = tuple[str, str]
"""Corruption and seed."""
Found = dict[Stream, float]


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
            for name in ("source", "ptbn", str(Variant.parse(method).without_steps))
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


KINDS: dict[str, Filler] = {
    "figures": figures,
    "adapting": adapting,
    "by-corruption": by_corruption,
    **records.KINDS,
    **networks.KINDS,
    **guarded.KINDS,
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
