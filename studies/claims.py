"""The papers' claims as differences in accuracy with intervals, from the grid of `methods.py`.

    python studies/claims.py runs/methods/grid --results results/methods

A row of ``claims.csv`` is a difference in accuracy on the same images and streams, with a paired
95 % interval over images. A row of ``steps.csv`` is the accuracy of a method before its first step,
after its last and, as an oracle, at its best step, and the standard deviation over seeds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

import tyro
from rich.console import Console
from rich.table import Table

from acclimate.commands.script import start, write_table
from acclimate.data.corruptions import PUBLISHED
from acclimate.evaluate.cell import CLEAN
from acclimate.evaluate.store import Measured
from acclimate.evaluate.variant import Variant
from acclimate.methods import METHODS
from acclimate.report.gains import gain_between, stream_of
from acclimate.report.measured import RowKey, read_grid

COMPARED = ("tent", "tipi", "tttpp", "clust3", "nc-ttt", "rec-ttt", "ttt-flow", "y", "cta-c")
"""Methods that CTA is compared with."""
CORRUPTED = "corrupted"


@dataclass(frozen=True)
class Arguments:
    """The grid, and the folder for results."""

    grid: tyro.conf.Positional[Path]
    """Folder of the grid: OUT/grid for methods.py --out OUT."""
    results: Path | None = None
    """Folder for claims.csv and steps.csv."""


@dataclass(frozen=True)
class Difference:
    """Accuracy of the first method minus that of the second, with a 95 % interval."""

    claim: str
    first: str
    second: str
    where: str
    """``clean``, ``corrupted`` (the mean over all that both have), or a corruption's name."""
    images: int
    streams: int
    """Number of pairs of corruption and seed."""
    difference: float
    """Difference as a fraction, like the limits of the interval."""
    low: float
    high: float


@dataclass(frozen=True)
class Steps:
    """Accuracy before, during and after the gradient steps; a mean over corruptions and seeds."""

    method: str
    bundle: str
    steps: int
    before: float
    last: float
    best: float
    """Accuracy at the number of steps with the highest accuracy: an oracle."""
    best_steps: int
    deviation: float | str
    """Standard deviation over seeds; empty for one seed."""


def claims() -> Iterator[tuple[str, RowKey, RowKey, str]]:
    """Each claim, the two rows (bundle and variant) that it compares, and the images."""
    for name, row in METHODS.items():
        if row.settings.steps:
            yield (
                f"{name} is better than frozen",
                own(name),
                (row.recipe, Variant("source")),
                CORRUPTED,
            )
    for where in ("clean", CORRUPTED):
        yield "the aligned twin is better before it adapts", *cta("aligned", "source"), where
        yield "the same with batch statistics", *cta("aligned-bn", "ptbn"), where
    for name in ("cta", "cta-paper"):
        for other in COMPARED:
            yield f"{name} is better than {other}", own(name), own(other), CORRUPTED
    yield "steps add to the aligned twin", *cta("cta", "aligned-bn"), CORRUPTED
    yield "our settings add to the published", *cta("cta", "cta-paper"), CORRUPTED
    for where in ("clean", CORRUPTED):
        yield "joint training is better than plain", own("joint"), own("source"), where
        yield "ttt is better than joint training", own("ttt"), own("joint"), where
        yield "ttt-online is better than ttt", own("ttt-online"), own("ttt"), where
        yield "ttt-online is better than joint training", own("ttt-online"), own("joint"), where
    for corruption in PUBLISHED:
        oracle = (f"uda-ss-{corruption}", Variant("uda-ss"))
        yield "ttt-online is better than uda-ss", own("ttt-online"), oracle, corruption


def own(method: str) -> RowKey:
    """A method with the bundle of its recipe."""
    return METHODS[method].recipe, Variant(method)


def cta(first: str, second: str) -> tuple[RowKey, RowKey]:
    """Two methods of CTA's bundle."""
    return ("cta", Variant(first)), ("cta", Variant(second))


def difference(
    measured: Sequence[Measured], claim: str, first: RowKey, second: RowKey, where: str
) -> Difference | None:
    """Difference on the largest set of images that both were measured on; None if there is none."""
    here = [each for each in measured if _counts(each, where)]
    mine, base = ([each for each in here if each.row == row] for row in (first, second))
    shared = {each.task.images for each in mine} & {each.task.images for each in base}
    if not shared:
        return None
    sizes = {each.task.images: each.task.n_images for each in mine}
    images = max(shared, key=sizes.__getitem__)
    mine, base = ([m for m in cells if m.task.images == images] for cells in (mine, base))
    both = {stream_of(each) for each in mine} & {stream_of(each) for each in base}
    mine = _complete([each for each in mine if stream_of(each) in both])
    gain = gain_between(mine, base)
    if gain is None:
        return None
    names = (f"{variant} of {bundle}" for bundle, variant in (first, second))
    limits = (round(value, 5) for value in (gain.difference, gain.low, gain.high))
    return Difference(claim, *names, where, sizes[images], len(mine), *limits)


def steps_of(measured: Sequence[Measured]) -> Iterator[Steps]:
    """A row for each method with an accuracy curve over steps, on its largest set of images."""
    corrupted = [m for m in measured if _counts(m, CORRUPTED) and len(m.cell.curve) > 1]
    for row in dict.fromkeys(each.row for each in corrupted):
        mine = [each for each in corrupted if each.row == row]
        most = max(each.task.n_images for each in mine)
        mine = _complete([each for each in mine if each.task.n_images == most])
        curve = [mean(values) for values in zip(*(each.cell.curve for each in mine))]
        seeds = {each.cell.seed for each in mine}
        means = [mean(m.cell.accuracy for m in mine if m.cell.seed == seed) for seed in seeds]
        yield Steps(
            str(row[1]),
            row[0],
            len(curve) - 1,
            round(curve[0], 5),
            round(curve[-1], 5),
            round(max(curve), 5),
            curve.index(max(curve)),
            round(stdev(means), 5) if len(means) > 1 else "",
        )


def _complete(measured: Sequence[Measured]) -> list[Measured]:
    """Cells of the seeds for which all occurring corruptions were measured."""
    places = {each.cell.corruption for each in measured}
    there = {(each.cell.seed, each.cell.corruption) for each in measured}
    return [m for m in measured if all((m.cell.seed, place) in there for place in places)]


def _counts(each: Measured, where: str) -> bool:
    places = {"clean": (CLEAN,), CORRUPTED: PUBLISHED}.get(where, (where,))
    return each.cell.order == "shuffled" and each.cell.corruption in places


def main(arguments: Arguments) -> None:
    """Compute the differences, print and write them."""
    measured, _ = read_grid(arguments.grid)
    compared = (difference(measured, *claim) for claim in claims())
    differences, steps = [each for each in compared if each], list(steps_of(measured))
    table = Table("claim", "where", "images", "points, 95 % interval")
    for each in differences:
        limits = (100 * value for value in (each.difference, each.low, each.high))
        points = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*limits)
        table.add_row(each.claim, each.where, str(each.images), points)
    Console().print(table)
    table = Table("method", "bundle", "before", "last", "best", "at step", "deviation")
    for row in steps:
        percents = (f"{100 * value:.2f}" for value in (row.before, row.last, row.best))
        spread = row.deviation and f"{100 * float(row.deviation):.2f}"
        table.add_row(row.method, row.bundle, *percents, str(row.best_steps), spread or "")
    Console().print(table)
    if arguments.results:
        for name, rows in (("claims.csv", differences), ("steps.csv", steps)):
            if rows:
                write_table(arguments.results / name, [asdict(row) for row in rows])


if __name__ == "__main__":
    start(main, Arguments)
