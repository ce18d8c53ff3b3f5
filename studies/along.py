"""Accuracy along a stream, from the predictions in a grid's store.

    python studies/along.py runs/main/grid --results results/main

As in TTT's figures 2 and 3: accuracy after adapting to more images, and as noise grows. A row of
``along.csv`` is one tenth of the streams with one order and batch size. It pools corruptions,
severities and seeds, on the largest data set that the method was measured on. Growing noise
increases evenly from none to severity 5.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import tyro

from acclimate.commands.script import start, write_table
from acclimate.evaluate.store import Measured
from acclimate.quickstart import HELD_OUT
from acclimate.report.figures.along import stretches
from acclimate.report.measured import read_grid


@dataclass(frozen=True)
class Arguments:
    """The grid, and the folder for results."""

    grid: tyro.conf.Positional[Path]
    """Folder of a grid with stored predictions."""
    results: Path
    """Folder for along.csv."""


def along(
    measured: Sequence[Measured], left_out: Sequence[str] = HELD_OUT
) -> Iterator[dict[str, str | int | float]]:
    """A row per tenth of the streams, for each method, bundle, order and batch size.

    Args:
        measured: Cells with their predictions.
        left_out: Corruptions that do not count.
    """

    def kind(each: Measured) -> tuple[str, str, str, int]:
        return each.cell.bundle, str(each.cell.variant), each.cell.order, each.cell.batch

    for (bundle, method, order, batch), group in groupby(sorted(measured, key=kind), kind):
        mine = list(group)
        most = max(each.task.n_images for each in mine)
        mine = [each for each in mine if each.task.n_images == most]
        for values in stretches(mine, left_out).values():
            for tenth, accuracy in enumerate(values, 1):
                row = {"method": method, "bundle": bundle, "order": order, "batch": batch}
                yield row | {
                    "images": most,
                    "tenth": tenth,
                    "accuracy": round(accuracy / 100, 5),
                }


def main(arguments: Arguments) -> None:
    """Read the grid and write the table."""
    measured, _ = read_grid(arguments.grid)
    if rows := list(along(measured)):
        write_table(arguments.results / "along.csv", rows)


if __name__ == "__main__":
    start(main, Arguments)
