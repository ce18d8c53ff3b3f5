import numpy as np
import pytest

from acclimate.data import Shift
from acclimate.evaluate.cell import Answers, Cell
from acclimate.evaluate.store import Measured
from acclimate.evaluate.task import Task
from acclimate.evaluate.variant import Variant


def _measured(
    method,
    condition,
    right,
    *,
    bundle="b",
    seed=0,
    order="shuffled",
    batch=128,
    severity=5,
    images="all",
    curve=(),
    cost=1.0,
    confidences=None,
    dataset="tiny",
    checksum="w",
    positions=None,
):
    """A cell whose accuracy is that of ``right``: whether each image was answered for rightly.

    The condition is a corruption or, with a slash in it, a domain.
    """
    right = np.asarray(right, bool)
    n = len(right)
    if "/" in condition:
        shift = Shift(domain=condition)
    else:
        shift = Shift(condition, 0 if condition == "none" else severity)
    variant = Variant.parse(method)
    settings = variant.settings
    task = Task(
        bundle=bundle, checksum=checksum, variant=variant, settings=settings, dataset=dataset,
        images=images, n_images=n, length=n, order=order, shifts=(shift,), batch=batch, seed=seed,
        curve=bool(curve), frost="",
    )  # fmt: skip
    positions = np.arange(n) if positions is None else np.asarray(positions)
    confidences = np.full(n, 0.5) if confidences is None else np.asarray(confidences)
    answers = Answers(
        positions, np.arange(n), np.zeros(n, np.int64), confidences.astype(np.float32), right
    )
    cell = Cell(
        variant=variant, bundle=bundle, dataset=dataset, corruption=shift.corruption,
        severity=shift.severity, domain=shift.domain,
        order=order, batch=batch, seed=seed, accuracy=float(right.mean()), ece=0.1, nll=1.0,
        n_images=n, steps=settings.steps, seconds=1.0, images_per_second=float(n), peak_memory=1,
        refused_steps=0, forward_equivalents=cost, curve=tuple(curve), answers=answers,
    )  # fmt: skip
    return Measured(task, cell)


@pytest.fixture(scope="session")
def measured():
    """Makes what a grid would have measured."""
    return _measured


@pytest.fixture(scope="session")
def share():
    """Right answers to the first so many of some images."""
    return lambda count, of=20: [i < count for i in range(of)]
