"""Accuracy for different batch sizes, orders of arrival, and noise that grows along the stream.

    python studies/methods.py --data cifar10.zip --out runs/methods --train-only
    python studies/streams.py --data cifar10.zip --out runs/methods --results results/streams
    acclimate report runs/methods/streams

The bundles are those of the first command. The grid is separate and has fewer images.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import along
from bundles import FOUR, Trained, test_images
from methods import publish, run_all

from acclimate.commands.script import start
from acclimate.evaluate.grid_run import GridRun
from acclimate.evaluate.task import Grid
from acclimate.methods import method

ORDERS = ("class-correlated", "label-shifted", "gradual", "continual", "mixed")


@dataclass(frozen=True)
class Arguments(Trained):
    """Data, and folders for results."""

    methods: tuple[str, ...] = ("source", "ptbn", "tent", "ttt-online", "tttpp", "y", "cta")
    """Methods, each with its own bundle."""
    corruptions: tuple[str, ...] = FOUR
    """Corruptions at severity 5. The growing noise is Gaussian."""
    batches: tuple[int, ...] = (1, 8, 32, 512)
    """Batch sizes in addition to 128."""
    images: int = 500
    """Number of test images, evenly spaced."""
    growing_images: int = 2000
    """Number of test images for growing noise."""
    results: Path | None = None
    """Folder for results.csv, the manifest and along.csv."""
    plan: bool = False
    """Only print what would be measured, and the estimated time."""


def main(arguments: Arguments) -> None:
    """Run the grids and write the results."""
    out = arguments.out / "streams"
    run_all(grids(arguments), out, workers=arguments.workers, only_plan=arguments.plan)
    if arguments.results and not arguments.plan:
        publish(out, arguments.results)
        along.main(along.Arguments(out, arguments.results))


def grids(arguments: Arguments) -> Iterator[GridRun]:
    """A grid for each batch size and each number of images."""
    recipes = {name: method(name).recipe for name in arguments.methods}
    bundles = {name: arguments.out / "bundles" / name for name in dict.fromkeys(recipes.values())}
    load_few, load_many = (
        partial(test_images, arguments.data, count)
        for count in (arguments.images, arguments.growing_images)
    )
    plain = Grid(arguments.corruptions, methods=arguments.methods, curve=False)
    for batch in arguments.batches:
        yield GridRun(replace(plain, batch=batch), bundles, (load_few,))
    yield GridRun(replace(plain, orders=("shuffled", *ORDERS)), bundles, (load_few,))
    growing = replace(plain, corruptions=FOUR[:1], orders=("growing-noise",))
    yield GridRun(growing, bundles, (load_many,))


if __name__ == "__main__":
    start(main, Arguments)
