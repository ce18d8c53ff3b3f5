"""Speed and cost of a variant, measured on one batch."""

import hashlib
import json
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from acclimate.adapt import Adapter
from acclimate.bundle import Bundle
from acclimate.data import LabelledImages
from acclimate.evaluate.task import Task
from acclimate.evaluate.window import SlidingWindow, passes_in_window
from acclimate.methods.changes import settings_record

_ALONE = 4
"""Number of images that the speed of a method is measured on which learns from each alone."""


@dataclass(frozen=True)
class Speed:
    """Speed and cost of a variant with a bundle; `acclimate.Cost` says what is counted."""

    seconds_per_image: float
    """Measured as in the grid, with the answers of a curve if it is recorded."""
    forward_equivalents: float
    moving_parameters: int
    held_bytes: int
    activation_bytes: int


def speed_key(task: Task) -> str:
    """One key for all tasks that take equally long for an image."""
    same = (
        task.bundle,
        task.checksum,
        str(task.variant),
        task.batch,
        task.curve,
        min(task.n_images, task.batch),
        *([task.window] if task.window else []),
    )
    settings = settings_record(replace(task.settings, seed=0))
    return hashlib.sha256(json.dumps([*same, settings]).encode()).hexdigest()[:32]


def measure_speed(
    task: Task,
    bundle: Bundle,
    data: LabelledImages,
    device: str | None = None,
    memory_limit: str | int | None = None,
) -> Speed:
    """Time the first images of a task's data set after a warm-up on them, and count the cost."""
    where = {"device": device, "memory_limit": memory_limit}
    adapter = Adapter(bundle, task.variant.method, task.settings, **where)
    images = data.images[: _ALONE if task.settings.one_by_one else task.window or task.batch]
    answer = adapter.trace if task.curve else adapter
    if task.window:
        window = SlidingWindow(adapter, task.window)

        def answer(images: Tensor) -> Tensor:
            return torch.cat([window(image) for image in images.split(1)])

    answer(images)
    started = time.perf_counter()
    answer(images).cpu()
    seconds = time.perf_counter() - started
    cost = adapter.cost(min(task.window or task.batch, len(data.images)))
    passes = cost.forward_equivalents
    return Speed(
        seconds / len(images),
        passes_in_window(task.settings, task.window, passes) if task.window else passes,
        cost.moving_parameters,
        cost.held_bytes,
        cost.activation_bytes,
    )
