"""Do steps or batch-norm statistics cause the drift of class medians? CTA's Table 6, in parts.

    python studies/methods.py --data cifar10.zip --out runs/methods --recipes cta y --train-only
    python studies/drift.py --data cifar10.zip --out runs/methods --results results/methods

Before the first step the published methods predict with the source statistics, afterwards with
running statistics that follow the target. The study measures both. It also measures the same steps
with batch statistics from the start, so that only the steps can change features.
"""

from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean

from bundles import Trained, in_processes, test_images

from acclimate.bundle import Bundle
from acclimate.commands.script import finish, recorded_options, show_rows, start, write_table
from acclimate.data import Shift, load, subset
from acclimate.data.corruptions import PUBLISHED
from acclimate.evaluate.analyses.semantics import Look, Semantics, semantics
from acclimate.methods import method as method_of

Key = tuple[str, str, str, int]
"""Method, statistics, part of the network, and number of steps."""
COLUMNS = ("davies_bouldin", "drift")
STATISTICS = {"as published": False, "the batch's": True}


@dataclass(frozen=True)
class Arguments(Trained):
    """Data, and folders for results."""

    results: Path | None = None
    """Folder for drift.csv and drift.json."""
    methods: tuple[str, ...] = ("cta-paper", "y")
    """Methods, each with its own bundle."""
    corruptions: tuple[str, ...] = PUBLISHED
    """Corruptions at severity 5."""
    images: int = 500
    """Number of test images per corruption, evenly spaced."""
    source_images: int = 2000
    """Number of training images for the reference medians, evenly spaced."""
    steps: int = 20
    """Gradient steps for each batch."""


@dataclass(frozen=True)
class Row:
    """Means over corruptions."""

    method: str
    statistics: str
    part: str
    steps: int
    davies_bouldin: float
    drift: float
    """Drift of the class medians; nan for features that the head does not use."""
    worse: int
    """Number of corruptions under which the drift is greater than before the first step; 0 if the
    drift is nan or there was no step."""


def main(arguments: Arguments) -> None:
    """Measure in several processes and write the table."""
    cases = list(product(arguments.methods, STATISTICS))
    tasks = [(*case, name) for case in cases for name in arguments.corruptions]
    measured = in_processes(partial(measure, arguments), tasks, arguments.workers, "drift")
    cells: dict[Key, list[Semantics]] = defaultdict(list)
    for (method, statistics, _), results in zip(tasks, measured):
        for result in results:
            cells[method, statistics, result.part, result.steps].append(result)
    table = [row_of(key, cells[key], cells[(*key[:3], 0)]) for key in cells]
    show_rows(table)
    if arguments.results:
        write_table(arguments.results / "drift.csv", [asdict(row) for row in table])
        finish({"arguments": recorded_options(arguments)}, 0, arguments.results / "drift.json")


def row_of(key: Key, after: list[Semantics], before: list[Semantics]) -> Row:
    """Mean over corruptions; both lists have them in the same order."""
    index, drift = (mean(getattr(each, name) for each in after) for name in COLUMNS)
    worse = sum(now.drift > then.drift for now, then in zip(after, before))
    return Row(*key, round(index, 4), round(drift, 4), worse)


def measure(arguments: Arguments, task: tuple[str, str, str]) -> list[Semantics]:
    """Semantics of a method under a corruption, before the first and after the last step."""
    method, statistics, corruption = task
    bundle = Bundle.load(arguments.out / "bundles" / method_of(method).recipe)
    images = test_images(arguments.data, arguments.images)
    source = subset(load(arguments.data, "train"), arguments.source_images)
    look = Look(arguments.steps, batch_statistics=STATISTICS[statistics])
    return list(semantics(bundle, method, images, source, [Shift(corruption, 5)], look))


if __name__ == "__main__":
    start(main, Arguments)
