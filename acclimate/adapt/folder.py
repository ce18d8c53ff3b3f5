"""Predictions for a folder of images of any size and mode, adapting batch by batch."""

import csv
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from acclimate.adapt.adapter import Adapter
from acclimate.bundle import Bundle
from acclimate.data import decode, folders
from acclimate.errors import InputError
from acclimate.methods import AdapterSettings
from acclimate.runtime.progress import Progress, silent
from acclimate.storage import atomic

COLUMNS = (
    "path",
    "prediction",
    "confidence",
    "frozen_prediction",
    "frozen_confidence",
    "skipped",
)


@dataclass(frozen=True)
class Answer:
    """The prediction for one image, or the reason why it could not be read."""

    path: str
    prediction: str = ""
    confidence: float | None = None
    """Softmax probability of the prediction, 0..1."""
    frozen_prediction: str = ""
    """Prediction of the frozen classifier."""
    frozen_confidence: float | None = None
    skipped: str = ""
    """Reason why there is no prediction."""


def adapt_folder(
    bundle: Bundle,
    images: Path,
    *,
    method: str | None = None,
    settings: AdapterSettings | None = None,
    batch: int = 128,
    device: str | None = None,
    memory_limit: str | int | None = None,
    progress: Progress = silent,
) -> Iterator[Answer]:
    """Adapt to the images of a folder or zip and predict each one's class, in natural path order.

    ```python
    for answer in adapt_folder(bundle, Path("photos")):
        print(answer.path, answer.prediction, answer.confidence)
    ```

    Args:
        bundle: The bundle that adapts.
        images: A folder, searched recursively, or a zip.
        method: A name of `acclimate.methods.METHODS`; None takes the bundle's.
        settings: Settings in place of the method's own.
        batch: Number of images in a batch.
        device: Where to run; None takes a GPU if there is one.
        memory_limit: The most memory that the process may hold; see `Adapter`.
        progress: Called with the number of images that are done.

    Yields:
        One answer per image; for an image that cannot be read, the reason.

    Raises:
        InputError: there is no image, or none that can be read; and as `Adapter`.
    """
    if batch < 1:
        raise InputError(f"batch must be 1 or more, not {batch}.")
    if not images.exists():
        raise InputError(f"there is no folder or zip {images}; check the path.")
    items = folders.items(images)
    adapter = Adapter(bundle, method, settings, device=device, memory_limit=memory_limit)
    frozen = Adapter(bundle, "source", device=device, memory_limit=memory_limit)
    readable = False
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(items), batch):
            part = items[start : start + batch]
            opened = list(pool.map(partial(_open, size=bundle.preprocessing.size), part))
            good = [pixels for pixels in opened if isinstance(pixels, Tensor)]
            answered = iter(_answers(torch.stack(good), adapter, frozen) if good else ())
            for item, pixels in zip(part, opened):
                if isinstance(pixels, str):
                    yield Answer(item.path, skipped=pixels)
                else:
                    readable = True
                    yield Answer(item.path, *_named(next(answered), bundle.classes))
            progress("adapt and answer", start + len(part), len(items), "")
    if not readable:
        raise InputError(f"none of the {len(items)} images in {images} could be read.")


def write_predictions(answers: list[Answer], path: Path) -> None:
    """Write answers as a CSV file, atomically.

    Raises:
        InputError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for answer in answers:
        row = [getattr(answer, column) for column in COLUMNS]
        writer.writerow([f"{value:.4f}" if isinstance(value, float) else value for value in row])
    atomic.write_text(path, text.getvalue())


def _open(item: folders.Item, size: int) -> Tensor | str:
    """The image as uint8 ``[3, size, size]``, or why it cannot be read."""
    try:
        image = decode.resize_and_crop(item.open(), size)
    except InputError as error:
        return str(error)
    except decode.BROKEN as error:
        return str(decode.damaged(error))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _answers(
    images: Tensor, adapter: Adapter, frozen: Adapter
) -> list[tuple[float, int, float, int]]:
    """Confidence and class of each image, of the adapted and of the frozen model."""
    adapted, plain = (model(images).softmax(1).max(1) for model in (adapter, frozen))
    columns = (adapted.values, adapted.indices, plain.values, plain.indices)
    return list(zip(*(column.tolist() for column in columns)))


def _named(
    answer: tuple[float, int, float, int], classes: tuple[str, ...]
) -> tuple[str, float, str, float]:
    confidence, prediction, frozen_confidence, frozen_prediction = answer
    return classes[prediction], confidence, classes[frozen_prediction], frozen_confidence
