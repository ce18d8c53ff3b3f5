"""Accuracy along a stream, from the answers in a grid's store.

    python studies/along.py runs/main/grid --results results/main

TTT's figures 2 and 3: whether a method gets better as it sees more, and how it fares as noise
grows. A row of ``along.csv`` is a tenth of the streams of one order and batch size, all
corruptions, severities and seeds together, of the largest data set that a method answered for.
Growing noise goes from none to severity 5, evenly.
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
    """Which grid, and where to write."""

    grid: tyro.conf.Positional[Path]
    """A folder with a store of answers."""
    results: Path
    """Where along.csv is written."""


def along(measured: Sequence[Measured]) -> Iterator[dict[str, str | int | float]]:
    """A row for each tenth of each kind of stream of each row of the grid's table."""

    def kind(each: Measured) -> tuple[str, str, str, int]:
        return each.cell.bundle, str(each.cell.variant), each.cell.order, each.cell.batch

    for (bundle, method, order, batch), group in groupby(sorted(measured, key=kind), kind):
        mine = list(group)
        most = max(each.task.n_images for each in mine)
        mine = [each for each in mine if each.task.n_images == most]
        for values in stretches(mine, HELD_OUT).values():
            for tenth, accuracy in enumerate(values, 1):
                about = {"method": method, "bundle": bundle, "order": order, "batch": batch}
                yield about | {"images": most, "tenth": tenth, "accuracy": round(accuracy / 100, 5)}


def main(arguments: Arguments) -> None:
    """Read and write."""
    measured, _ = read_grid(arguments.grid)
    if rows := list(along(measured)):
        write_table(arguments.results / "along.csv", rows)


if __name__ == "__main__":
    start(main, Arguments)
