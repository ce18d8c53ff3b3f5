"""The mean accuracy of each method over the corruptions, with intervals, from a grid.

    python studies/score.py runs/paper/grid --results results/paper --published cta_cifar10c.csv

A row of ``summary.csv`` is a method with a bundle on one set of images. Intervals are 95 % and by
bootstrap over images; that of the gain over the frozen classifier of the same bundle is paired.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from acclimate.commands.script import start, write_table
from acclimate.evaluate.cell import CLEAN
from acclimate.evaluate.store import Measured
from acclimate.evaluate.variant import Variant
from acclimate.report.gains import gain_between
from acclimate.report.intervals import paired_interval
from acclimate.report.measured import RowKey, read_grid
from acclimate.report.published import published_score, read_published


@dataclass(frozen=True)
class Arguments:
    """The grid, and the folder for results."""

    grid: tyro.conf.Positional[Path]
    """Folder of the grid."""
    results: Path
    """Folder for summary.csv."""
    published: Path | None = None
    """Table of a paper, with the columns method, corruption, severity, accuracy and std."""


@dataclass(frozen=True)
class Score:
    """Accuracies as fractions; empty where unknown."""

    bundle: str
    method: str
    images: int
    """Number of images under each corruption."""
    corruptions: int
    """Number of corruptions; all rows of one number of images have the same unless unfinished."""
    seeds: int
    clean: float | str
    corrupted: float
    low: float
    high: float
    gain: float | str
    """Over the frozen classifier of the same bundle."""
    gain_low: float | str
    gain_high: float | str
    published: float | str
    """The paper's mean over the same corruptions, for its own network and training."""


def main(arguments: Arguments) -> None:
    """Write and print the summary."""
    write_summary(arguments.grid, arguments.results, arguments.published)


def write_summary(grid: Path, results: Path, published: Path | None = None) -> None:
    """Compute the scores, write ``summary.csv`` and print them."""
    measured, _ = read_grid(grid)
    rows = list(scores(measured, published))
    if not rows:
        return
    write_table(results / "summary.csv", [asdict(row) for row in rows])
    table = Table("bundle", "method", "images", "clean", "corrupted", "over frozen", "paper")
    for row in rows:
        limits = _percents(row.corrupted, row.low, row.high)
        gain = _percents(row.gain, row.gain_low, row.gain_high, sign="+")
        single = (_percents(value) for value in (row.clean, row.published))
        clean, paper = single
        table.add_row(row.bundle, row.method, str(row.images), clean, limits, gain, paper)
    Console(width=120).print(table)


def scores(measured: Sequence[Measured], published: Path | None = None) -> Iterator[Score]:
    """A score for each bundle and method on each set of images."""
    known = read_published(published) if published else []
    rows: dict[tuple[str, RowKey], list[Measured]] = defaultdict(list)
    for each in measured:
        rows[each.task.images, each.row].append(each)
    for (images, (bundle, variant)), mine in rows.items():
        corrupted = [each for each in mine if each.cell.corruption != CLEAN]
        clean = [each.cell.accuracy for each in mine if each.cell.corruption == CLEAN]
        if not corrupted:
            continue
        names = tuple(dict.fromkeys(each.cell.corruption for each in corrupted))
        seeds = {each.cell.seed for each in corrupted}
        base = rows.get((images, (bundle, Variant("source"))), [])
        gain = gain_between(corrupted, base) if variant != Variant("source") else None
        severity = corrupted[0].cell.severity
        paper = published_score(known, str(variant), names, severity)
        limits = [round(v, 5) for v in (gain.difference, gain.low, gain.high)] if gain else [""] * 3
        accuracy, low, high = (round(value, 5) for value in _accuracy(corrupted))
        yield Score(
            bundle,
            str(variant),
            corrupted[0].task.n_images,
            len(names),
            len(seeds),
            round(float(np.mean(clean)), 5) if clean else "",
            accuracy,
            low,
            high,
            limits[0],
            limits[1],
            limits[2],
            "" if paper is None else round(paper, 5),
        )


def _accuracy(measured: Sequence[Measured]) -> tuple[float, float, float]:
    """The mean accuracy and its limits: the gain over a method that is never right."""
    answers = [each.cell.answers for each in measured]
    right = np.concatenate([each.right for each in answers if each is not None])
    images = np.concatenate([each.numbers for each in answers if each is not None])
    return paired_interval(right, np.zeros_like(right), groups=images)


def _percents(value: float | str, *limits: float | str, sign: str = "") -> str:
    if value == "":
        return ""
    shown = [f"{100 * float(each):{sign}.1f}" for each in (value, *limits)]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]" if limits else shown[0]


if __name__ == "__main__":
    start(main, Arguments)
