"""Orders of arrival: batch sizes, orders, and noise that grows from image to image.

    python studies/methods.py --data cifar10.zip --out runs/methods --train-only
    python studies/streams.py --data cifar10.zip --out runs/methods --results results/streams
    acclimate report runs/methods/streams

The bundles are those of the first command. The grid is one of its own, of fewer images.
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
    """What to run on, and where to write."""

    methods: tuple[str, ...] = ("source", "ptbn", "tent", "ttt-online", "tttpp", "y", "cta")
    """Methods, on their own bundles."""
    corruptions: tuple[str, ...] = FOUR
    """Corruptions at severity 5; the noise that grows is Gaussian."""
    batches: tuple[int, ...] = (1, 8, 32, 512)
    """Batch sizes beside the usual 128."""
    images: int = 500
    """Test images, evenly spaced."""
    growing_images: int = 2000
    """Test images for noise that grows."""
    results: Path | None = None
    """Where results.csv, the manifest and along.csv are written."""
    plan: bool = False
    """Only say what would be measured and how long it takes."""


def main(arguments: Arguments) -> None:
    """Measure everything, grid by grid."""
    out = arguments.out / "streams"
    run_all(grids(arguments), out, workers=arguments.workers, only_plan=arguments.plan)
    if arguments.results and not arguments.plan:
        publish(out, arguments.results)
        along.main(along.Arguments(out, arguments.results))


def grids(arguments: Arguments) -> Iterator[GridRun]:
    """A grid for each batch size and each number of images."""
    recipes = {name: method(name).recipe for name in arguments.methods}
    bundles = {name: arguments.out / "bundles" / name for name in dict.fromkeys(recipes.values())}
    some, more = (
        partial(test_images, arguments.data, count)
        for count in (arguments.images, arguments.growing_images)
    )
    plain = Grid(arguments.corruptions, methods=arguments.methods, curve=False)
    for batch in arguments.batches:
        yield GridRun(replace(plain, batch=batch), bundles, (some,))
    yield GridRun(replace(plain, orders=("shuffled", *ORDERS)), bundles, (some,))
    growing = replace(plain, corruptions=FOUR[:1], orders=("growing-noise",))
    yield GridRun(growing, bundles, (more,))


if __name__ == "__main__":
    start(main, Arguments)
