"""The jobs of a grid, and the bundles and images that they work with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from acclimate.bundle import Bundle
from acclimate.data import LabelledImages
from acclimate.errors import InputError
from acclimate.evaluate.cell import Cell
from acclimate.evaluate.measure import measure
from acclimate.evaluate.speed import Speed, measure_speed
from acclimate.evaluate.task import Task, checksum_of


@dataclass(frozen=True)
class Workplace:
    """Bundles and images of a grid's tasks. It can be sent to other processes."""

    bundles: Mapping[str, Path]
    """Folders by their labels."""
    data: Mapping[str, Callable[[], LabelledImages]]
    """Functions that load the images of each `Task.images`; memory maps stay memory maps."""
    notes: tuple[str, ...] = ()
    """How classes were matched with outputs, where not by their names."""
    memory_limit: str | None = None
    """The most memory that each process may hold; None goes by what the machine has free."""

    def bundle(self, task: Task) -> Bundle:
        """The bundle of a task.

        Raises:
            InputError: the folder holds another bundle by now.
        """
        return _load(self.bundles[task.bundle], task.checksum)

    def images(self, task: Task) -> LabelledImages:
        """The images of a task."""
        return _images(self.data[task.images], task.images)


def measure_task(task: Task, place: Workplace) -> tuple[Cell, ...]:
    """The job of a grid: see `acclimate.evaluate.measure`."""
    return measure(
        place.bundle(task),
        task.variant,
        place.images(task),
        task.shifts,
        order=task.order,
        seed=task.seed,
        batch=task.batch,
        window=task.window,
        curve=task.curve,
        settings=task.settings,
        label=task.bundle,
        memory_limit=place.memory_limit,
    )


def speed_task(task: Task, place: Workplace) -> Speed:
    """The job of a plan: see `acclimate.evaluate.speed`."""
    limit = place.memory_limit
    return measure_speed(task, place.bundle(task), place.images(task), memory_limit=limit)


# What is loaded is kept for the next task, but not for tasks on what has replaced it since.


@lru_cache(maxsize=2)
def _load(path: Path, checksum: str) -> Bundle:
    if checksum_of(path) != checksum:
        raise InputError(f"{path} is another bundle than when the grid began; start it again.")
    return Bundle.load(path)


@lru_cache(maxsize=2)
def _images(load: Callable[[], LabelledImages], fingerprint: str) -> LabelledImages:
    return load()
