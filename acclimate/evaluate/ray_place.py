"""The bundles and images of a grid, as they travel to the machines of a Ray cluster."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from acclimate.bundle import Bundle
from acclimate.data import LabelledImages
from acclimate.errors import InputError
from acclimate.evaluate.task import Task, checksum_of
from acclimate.evaluate.workplace import Workplace


@dataclass(frozen=True, eq=False)
class RayPlace:
    """A `Workplace` that needs no shared folder: files and images lie in Ray's object store.

    Each machine gets each set of images once. Its processes share the pixels, which are not copied.
    """

    bundles: Mapping[str, Mapping[str, bytes]]
    """Each bundle's files, by its label."""
    data: Mapping[str, Any]
    """A reference to the stored images of each `Task.images`."""
    memory_limit: str | None
    """As of the `Workplace`."""

    def bundle(self, task: Task) -> Bundle:
        """The bundle of a task.

        Raises:
            InputError: the folder held another bundle when it was packed.
        """
        return _load(self, task.bundle, task.checksum)

    def images(self, task: Task) -> LabelledImages:
        """The images of a task."""
        return _images(self, task.images)


def packed(place: Workplace, tasks: Iterable[Task]) -> RayPlace:
    """Put what these tasks need into the object store of the cluster that Ray is connected to.

    Raises:
        InputError: a bundle cannot be read.
    """
    import ray

    tasks = list(tasks)
    first = {task.images: task for task in tasks}
    return RayPlace(
        {label: _files(place.bundles[label]) for label in {task.bundle for task in tasks}},
        {images: ray.put(_arrays(place.images(task))) for images, task in first.items()},
        place.memory_limit,
    )


def _files(folder: Path) -> dict[str, bytes]:
    try:
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}.") from error


def _arrays(data: LabelledImages) -> tuple[LabelledImages, bool, np.ndarray]:
    """The data without its pixels, whether the channels come last in memory, and the pixels.

    Ray shares arrays that are contiguous, and copies others and tensors.
    """
    last = data.images.is_contiguous(memory_format=torch.channels_last)
    pixels = data.images.permute(0, 2, 3, 1) if last else data.images
    return replace(data, images=data.images[:0]), last, pixels.contiguous().numpy()


# What is unpacked is kept for the process's next task.


@lru_cache(maxsize=2)
def _load(place: RayPlace, label: str, checksum: str) -> Bundle:
    with TemporaryDirectory(prefix="acclimate-") as name:
        folder = Path(name)
        for file, content in place.bundles[label].items():
            (folder / file).write_bytes(content)
        if checksum_of(folder) != checksum:
            raise InputError(f"{label} is another bundle than when the grid began; start it again.")
        return Bundle.load(folder)


@lru_cache(maxsize=2)
def _images(place: RayPlace, images: str) -> LabelledImages:
    import ray

    data, last, pixels = ray.get(place.data[images])
    with warnings.catch_warnings():  # as a memory map, the array is only read
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(pixels)
    return replace(data, images=tensor.permute(0, 3, 1, 2) if last else tensor)
