import numpy as np
import pytest

from acclimate.data import Shift
from acclimate.evaluate.cell import Answers, Cell
from acclimate.evaluate.measure import settings_of
from acclimate.evaluate.task import Task
from acclimate.report.measured import Measured


def _measured(
    method,
    corruption,
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
    """A cell whose accuracy is that of ``right``: whether each image was answered for rightly."""
    right = np.asarray(right, bool)
    n = len(right)
    severity = 0 if corruption == "none" else severity
    shift = Shift(corruption, severity)
    settings = settings_of(method)
    task = Task(
        bundle=bundle, checksum=checksum, method=method, settings=settings, dataset=dataset,
        images=images, n_images=n, length=n, order=order, shifts=(shift,), batch=batch, seed=seed,
        curve=bool(curve), frost="",
    )  # fmt: skip
    positions = np.arange(n) if positions is None else np.asarray(positions)
    confidences = np.full(n, 0.5) if confidences is None else np.asarray(confidences)
    answers = Answers(
        positions, np.arange(n), np.zeros(n, np.int64), confidences.astype(np.float32), right
    )
    cell = Cell(
        method=method, bundle=bundle, dataset=dataset, corruption=corruption, severity=severity,
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
