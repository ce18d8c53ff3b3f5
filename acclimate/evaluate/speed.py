"""How fast a method is here, and what it costs: one batch tells."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace

from acclimate.adapt import Adapter
from acclimate.bundle import Bundle
from acclimate.data import LabelledImages
from acclimate.evaluate.measure import LR0
from acclimate.evaluate.task import Task

_ALONE = 4
"""Images that tell the speed of a method which learns from each alone."""


@dataclass(frozen=True)
class Speed:
    """Of a method with a bundle; see `acclimate.Cost` for what is counted."""

    seconds_per_image: float
    """As in the grid: in one of its processes, with the answers of a curve if it is recorded."""
    forward_equivalents: float
    moving_parameters: int
    held_bytes: int
    activation_bytes: int


def speed_key(task: Task) -> str:
    """The same for all tasks that take as long an image."""
    same = (
        task.bundle,
        task.checksum,
        task.method,
        task.batch,
        task.curve,
        min(task.n_images, task.batch),
    )
    settings = asdict(replace(task.settings, seed=0))
    return hashlib.sha256(json.dumps([*same, settings]).encode()).hexdigest()[:32]


def measure_speed(
    task: Task, bundle: Bundle, data: LabelledImages, device: str | None = None
) -> Speed:
    """Time the first images of a task's data set, after as many to warm up, and count the cost."""
    adapter = Adapter(bundle, task.method.removesuffix(LR0), task.settings, device=device)
    images = data.images[: _ALONE if task.settings.one_by_one else task.batch]
    answer = adapter.trace if task.curve else adapter
    answer(images)
    started = time.perf_counter()
    answer(images).cpu()
    seconds = time.perf_counter() - started
    cost = adapter.cost(min(task.batch, len(data.images)))
    return Speed(
        seconds / len(images),
        cost.forward_equivalents,
        cost.moving_parameters,
        cost.held_bytes,
        cost.activation_bytes,
    )
