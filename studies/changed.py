"""Methods with one published setting changed: more steps, a lower rate, batch statistics.

    python studies/methods.py --data cifar10.zip --out runs/methods --train-only
    python studies/changed.py --data cifar10.zip --out runs/methods --results results/methods

The bundles are those of the first command. Each change is a variant of a grid in
``runs/methods/changed``; `acclimate report runs/methods/grid` shows the table. An interrupted run
can be resumed.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Literal, get_args

from bundles import FOUR, Trained, test_images
from methods import run_all
from rich.console import Console

from acclimate.commands.script import finish, recorded_options, start, write_table
from acclimate.evaluate.analyses.record import write_record
from acclimate.evaluate.grid_run import GridRun
from acclimate.evaluate.store import Measured
from acclimate.evaluate.task import Grid
from acclimate.evaluate.variant import Variant
from acclimate.methods import METHODS, method

Change = Literal["as published", "three times the steps", "a tenth of the rate", "batch statistics"]


@dataclass(frozen=True)
class Arguments(Trained):
    """Data, and folders for results."""

    results: Path | None = None
    """Folder for changed.csv and changed.json."""
    methods: tuple[str, ...] = (
        *("cta-paper", "y", "cta-c", "tttpp", "clust3", "nc-ttt", "rec-ttt", "ttt-flow"),
    )
    """Methods, each with its own bundle."""
    changes: tuple[Change, ...] = get_args(Change)
    """Changes to measure. The results are not used to choose settings."""
    corruptions: tuple[str, ...] = FOUR
    """Corruptions at severity 5."""
    images: int = 500
    """Number of test images per corruption, evenly spaced."""


@dataclass(frozen=True)
class Row:
    """Mean accuracy over corruptions."""

    method: str
    change: str
    steps: int
    """Gradient steps on each batch before its prediction."""
    accuracy: float


def main(arguments: Arguments) -> None:
    """Run the grid and write the table."""
    out = arguments.out / "changed"
    measured = run_all([grid_run(arguments)], out, workers=arguments.workers)
    cases = product(arguments.methods, arguments.changes)
    rows = [row for case in cases for row in rows_of(*case, measured)]
    path = write_record(
        arguments.out / "grid",
        "changed",
        title="One published setting changed",
        caption="Accuracy before the first step on each batch and after some, a mean over "
        f"{', '.join(arguments.corruptions)} at severity 5.",
        rows=map(asdict, rows),
        settings={"images": arguments.images},
    )
    Console().print(f"{path} is ready", highlight=False)
    if arguments.results:
        write_table(arguments.results / "changed.csv", [asdict(row) for row in rows])
        finish({"arguments": recorded_options(arguments)}, 0, arguments.results / "changed.json")


def grid_run(arguments: Arguments) -> GridRun:
    """A grid of all variants with the bundles of their methods."""
    recipes = dict.fromkeys(method(name).recipe for name in arguments.methods)
    cases = product(arguments.methods, arguments.changes)
    variants = dict.fromkeys(str(variant_of(*case)) for case in cases)
    return GridRun(
        Grid(arguments.corruptions, methods=tuple(variants)),
        {recipe: arguments.out / "bundles" / recipe for recipe in recipes},
        (partial(test_images, arguments.data, arguments.images),),
    )


def variant_of(name: str, change: Change) -> Variant:
    """The method as published, or with one setting changed."""
    settings = METHODS[name].settings
    match change:
        case "as published":
            return Variant(name)
        case "three times the steps":
            return Variant.of(name, {"steps": 3 * settings.steps})
        case "a tenth of the rate":
            return Variant.of(name, {"update.learning_rate": settings.update.learning_rate / 10})
        case "batch statistics":
            return Variant.of(name, {"normalisation": "batch"})


def rows_of(name: str, change: Change, measured: Sequence[Measured]) -> list[Row]:
    """A row for about every quarter of the published steps."""
    variant = variant_of(name, change)
    curves = [each.cell.curve for each in measured if each.cell.variant == variant]
    means = [mean(values) for values in zip(*curves)]
    every = max(METHODS[name].settings.steps // 4, 1)
    return [Row(name, change, step, round(means[step], 5)) for step in range(0, len(means), every)]


if __name__ == "__main__":
    start(main, Arguments)
