"""Do the gradients of a method's loss at deployment and of the cross entropy agree?

    python studies/methods.py --data cifar10.zip --out runs/methods --train-only
    python studies/agreement.py --data cifar10.zip --out runs/methods --results results/methods

For each image, before any step, the study computes both gradients with respect to the encoder's
weights (TTT, Sun et al. 2020, Theorem 1). It reports their cosine, and the first-order decrease of
the cross entropy in the method's first step. Labels are used only for this analysis.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from math import sqrt
from pathlib import Path

import torch
from bundles import FOUR, Trained, in_processes, test_images
from methods import SINGLE
from torch.nn.functional import cosine_similarity

from acclimate.bundle import Bundle
from acclimate.commands.script import finish, recorded_options, show_rows, start, write_table
from acclimate.data import Shift
from acclimate.evaluate.analyses.gradients import gradients
from acclimate.methods import method as method_of


@dataclass(frozen=True)
class Arguments(Trained):
    """Data, and folders for results."""

    results: Path | None = None
    """Folder for agreement.csv and agreement.json."""
    methods: tuple[str, ...] = tuple(SINGLE)
    """Methods that adapt to each image alone, each with its own bundle."""
    corruptions: tuple[str, ...] = ("none", *FOUR)
    """Corruptions at severity 5; none is clean images."""
    images: int = 200
    """Number of test images per corruption, evenly spaced."""


@dataclass(frozen=True)
class Row:
    """Means over images, with standard errors."""

    method: str
    corruption: str
    images: int
    cosine: float
    cosine_error: float
    fall: float
    """First-order decrease of the cross entropy in the first published step, in nats."""
    fall_error: float


def main(arguments: Arguments) -> None:
    """Measure in several processes and write the table."""
    tasks = list(product(arguments.methods, arguments.corruptions))
    rows = in_processes(partial(measured, arguments), tasks, arguments.workers, "gradients")
    show_rows(rows)
    if arguments.results:
        write_table(arguments.results / "agreement.csv", [asdict(row) for row in rows])
        finish({"arguments": recorded_options(arguments)}, 0, arguments.results / "agreement.json")


def measured(arguments: Arguments, task: tuple[str, str]) -> Row:
    """The row of a method and a corruption."""
    method, corruption = task
    row = method_of(method)
    bundle = Bundle.load(arguments.out / "bundles" / row.recipe)
    images = test_images(arguments.data, arguments.images)
    shift = Shift(corruption, 0 if corruption == "none" else 5)
    cosines, falls = [], []
    for _, first, second in gradients(bundle, images, shift):
        cosines.append(float(cosine_similarity(first, second, 0)))
        falls.append(row.settings.update.learning_rate * float(first @ second))
    return Row(method, corruption, len(images.images), *summary(cosines), *summary(falls))


def summary(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error."""
    sample = torch.tensor(values, dtype=torch.float64)
    return round(float(sample.mean()), 5), round(float(sample.std() / sqrt(len(values))), 5)


if __name__ == "__main__":
    start(main, Arguments)
