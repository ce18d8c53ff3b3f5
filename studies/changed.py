"""Methods with one published setting changed: more steps, a smaller rate, the batch's statistics.

    python studies/methods.py --data cifar10.zip --out runs/methods --train-only
    python studies/changed.py --data cifar10.zip --out runs/methods --results results/methods

The bundles are those of the first command; `acclimate report runs/methods/grid` shows the table.
"""

from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Literal, get_args

from bundles import FOUR, Trained, in_processes, test_images
from rich.console import Console

from acclimate.bundle import Bundle
from acclimate.commands.script import finish, start, told, write_table
from acclimate.data import Shift
from acclimate.evaluate.analyses.record import write_record
from acclimate.evaluate.measure import measure, settings_of
from acclimate.methods import AdapterSettings, method
from acclimate.runtime.memory import keep_freed_memory

Change = Literal["as published", "three times the steps", "a tenth of the rate", "batch statistics"]


@dataclass(frozen=True)
class Arguments(Trained):
    """What to run on, and where to write."""

    results: Path | None = None
    """Where changed.csv and changed.json are written."""
    methods: tuple[str, ...] = (
        *("cta-paper", "y", "cta-c", "tttpp", "clust3", "nc-ttt", "rec-ttt", "ttt-flow"),
    )
    """On their own bundles."""
    changes: tuple[Change, ...] = get_args(Change)
    """What to try, to see what matters: nothing is chosen by it."""
    corruptions: tuple[str, ...] = FOUR
    """At severity 5."""
    images: int = 500
    """Test images under each corruption, evenly spaced."""


@dataclass(frozen=True)
class Row:
    """Accuracy, a mean over corruptions."""

    method: str
    change: str
    steps: int
    """Gradient steps on each batch before its answer."""
    accuracy: float


def main(arguments: Arguments) -> None:
    """Measure in processes, write the table."""
    cases = list(product(arguments.methods, arguments.changes))
    tasks = list(product(cases, arguments.corruptions))
    found = in_processes(partial(curve, arguments), tasks, arguments.workers, "changed settings")
    curves: dict[tuple[str, Change], list[tuple[float, ...]]] = {case: [] for case in cases}
    for (case, _), measured in zip(tasks, found):
        curves[case].append(measured)
    rows = [row for case in cases for row in rows_of(case, curves[case])]
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
        finish({"arguments": told(arguments)}, 0, arguments.results / "changed.json")


def curve(arguments: Arguments, task: tuple[tuple[str, Change], str]) -> tuple[float, ...]:
    """Accuracy before the first step and after each."""
    keep_freed_memory()
    (name, change), corruption = task
    bundle = Bundle.load(arguments.out / "bundles" / method(name).recipe)
    images = test_images(arguments.data, arguments.images)
    settings, shift = changed(settings_of(name), change), Shift(corruption, 5)
    (cell,) = measure(bundle, name, images, [shift], settings=settings, curve=True)
    return cell.curve


def changed(settings: AdapterSettings, change: Change) -> AdapterSettings:
    """The published settings, or one of them changed."""
    match change:
        case "as published":
            return settings
        case "three times the steps":
            return replace(settings, steps=3 * settings.steps)
        case "a tenth of the rate":
            return replace(settings, learning_rate=settings.learning_rate / 10)
        case "batch statistics":
            return replace(settings, normalisation="batch")


def rows_of(case: tuple[str, Change], curves: list[tuple[float, ...]]) -> list[Row]:
    """A row for each quarter of the published steps, or so."""
    means = [mean(values) for values in zip(*curves)]
    every = max(settings_of(case[0]).steps // 4, 1)
    return [Row(*case, step, round(means[step], 5)) for step in range(0, len(means), every)]


if __name__ == "__main__":
    start(main, Arguments)
