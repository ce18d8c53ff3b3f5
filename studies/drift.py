"""Whether class medians drift by the steps or by batch norm's statistics: CTA's Table 6, in parts.

    python studies/methods.py --data cifar10.zip --out runs/methods --recipes cta y --train-only
    python studies/drift.py --data cifar10.zip --out runs/methods --results results/methods

Before the first step the published methods answer from the source's statistics, after it from
running ones that follow the target. Here both are looked at, and the same steps with the batch's
statistics from the start, where nothing but the steps can move a feature.
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
"""Method, statistics, part, steps."""
COLUMNS = ("davies_bouldin", "drift")
STATISTICS = {"as published": False, "the batch's": True}


@dataclass(frozen=True)
class Arguments(Trained):
    """What to run on, and where to write."""

    results: Path | None = None
    """Where drift.csv and drift.json are written."""
    methods: tuple[str, ...] = ("cta-paper", "y")
    """Methods, on their own bundles."""
    corruptions: tuple[str, ...] = PUBLISHED
    """Corruptions at severity 5."""
    images: int = 500
    """Test images under each corruption, evenly spaced."""
    source_images: int = 2000
    """Training images whose medians the classifier knows, evenly spaced."""
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
    """nan for the part that the head does not read."""
    worse: int
    """Under how many corruptions the drift is greater than before the first step; none where it is
    nan, or where there was no step."""


def main(arguments: Arguments) -> None:
    """Look in processes, write the table."""
    cases = list(product(arguments.methods, STATISTICS))
    tasks = [(*case, name) for case in cases for name in arguments.corruptions]
    found = in_processes(partial(looked, arguments), tasks, arguments.workers, "drift")
    cells: dict[Key, list[Semantics]] = defaultdict(list)
    for (method, statistics, _), looks in zip(tasks, found):
        for look in looks:
            cells[method, statistics, look.part, look.steps].append(look)
    table = [row_of(key, cells[key], cells[(*key[:3], 0)]) for key in cells]
    show_rows(table)
    if arguments.results:
        write_table(arguments.results / "drift.csv", [asdict(row) for row in table])
        finish({"arguments": recorded_options(arguments)}, 0, arguments.results / "drift.json")


def row_of(key: Key, after: list[Semantics], before: list[Semantics]) -> Row:
    """The mean over corruptions, which both have in the same order."""
    index, drift = (mean(getattr(each, name) for each in after) for name in COLUMNS)
    worse = sum(now.drift > then.drift for now, then in zip(after, before))
    return Row(*key, round(index, 4), round(drift, 4), worse)


def looked(arguments: Arguments, task: tuple[str, str, str]) -> list[Semantics]:
    """A method under a corruption, before the first step on each batch and after the last."""
    method, statistics, corruption = task
    bundle = Bundle.load(arguments.out / "bundles" / method_of(method).recipe)
    images = test_images(arguments.data, arguments.images)
    source = subset(load(arguments.data, "train"), arguments.source_images)
    look = Look(arguments.steps, batch_statistics=STATISTICS[statistics])
    return list(semantics(bundle, method, images, source, [Shift(corruption, 5)], look))


if __name__ == "__main__":
    start(main, Arguments)
