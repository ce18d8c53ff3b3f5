"""Three times the published number of gradient steps: which methods stay where they were?

    python benchmarks/methods.py --data cifar10.zip --out runs/methods --train-only
    python benchmarks/iterations.py --data cifar10.zip --out runs/methods

The bundles are those of the first command; `acclimate report runs/methods/grid` shows the table.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

import tyro
from methods import Arguments as Study
from methods import alone, test_images
from rich.console import Console

from acclimate.bundle import Bundle
from acclimate.data import Shift
from acclimate.evaluate.analyses.record import write_record
from acclimate.evaluate.measure import measure, settings_of
from acclimate.memory import keep_freed_memory
from acclimate.methods import METHODS
from acclimate.progress import live


@dataclass(frozen=True)
class Arguments:
    """What to run on, and where to write."""

    data: str
    """As for methods.py."""
    out: Path
    """Where methods.py trained; the table goes to its grid."""
    methods: tuple[str, ...] = ("cta-paper", "y", "clust3", "nc-ttt", "rec-ttt", "ttt-flow")
    """Those that forget after each batch, on their own bundles."""
    times: int = 3
    """So many times a method's own number of steps."""
    corruptions: tuple[str, ...] = Study.corruptions
    """At severity 5."""
    images: int = 500
    """Test images under each corruption, evenly spaced."""
    workers: int = 2
    """Processes of one thread each."""


def main(arguments: Arguments) -> None:
    """Measure in processes, write the table."""
    tasks = list(product(arguments.methods, arguments.corruptions))
    curves: dict[str, list[Sequence[float]]] = {name: [] for name in arguments.methods}
    context = get_context("spawn")
    with ProcessPoolExecutor(arguments.workers, context, alone) as pool, live() as progress:
        found = pool.map(partial(curve, arguments), tasks)
        for done, ((name, corruption), measured) in enumerate(zip(tasks, found), 1):
            curves[name].append(measured)
            progress("iterations", done, len(tasks), f"{name} {corruption}")
    path = write_record(
        arguments.out / "grid",
        "iterations",
        title="Many more gradient steps than published",
        caption="Accuracy before the first step on each batch and after some, a mean over "
        f"{', '.join(arguments.corruptions)} at severity 5.",
        rows=[row for name in arguments.methods for row in rows(name, curves[name])],
        settings={"images": arguments.images, "times": arguments.times},
    )
    Console().print(f"{path} is ready", highlight=False)


def curve(arguments: Arguments, task: tuple[str, str]) -> tuple[float, ...]:
    """Accuracy before the first step and after each."""
    keep_freed_memory()
    name, corruption = task
    settings = settings_of(name)
    settings = replace(settings, steps=arguments.times * settings.steps)
    bundle = Bundle.load(arguments.out / "bundles" / METHODS[name].recipe)
    study = Study(data=arguments.data, out=arguments.out)
    images = test_images(study, arguments.images)
    (cell,) = measure(bundle, name, images, [Shift(corruption, 5)], settings=settings, curve=True)
    return cell.curve


def rows(name: str, curves: Sequence[Sequence[float]]) -> list[dict]:
    """A row for each quarter of the published steps."""
    means = [mean(values) for values in zip(*curves)]
    every = max(settings_of(name).steps // 4, 1)
    return [
        {"method": name, "steps": step, "accuracy": round(means[step], 5)}
        for step in range(0, len(means), every)
    ]


if __name__ == "__main__":
    main(tyro.cli(Arguments))
