"""Predictions for a folder of images of any size and mode, adapting batch by batch."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from acclimate.adapt.adapter import Adapter
from acclimate.adapt.folder_run import Checkpoints, FolderRun, Guarded
from acclimate.adapt.frozen import frozen_beside
from acclimate.bundle import Bundle
from acclimate.data import decode, folders
from acclimate.data.cache import Item
from acclimate.data.survey import Survey
from acclimate.errors import InputError
from acclimate.methods import AdapterSettings
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import key, permutation
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
    shuffle: bool = False,
    checkpoints: Checkpoints | None = None,
    guard: Callable[[Adapter], Guarded | None] | None = None,
) -> Iterator[Answer]:
    """Adapt to the images of a folder or zip and predict each one's class, in natural path order.

    Statistics of one image say little: at a batch of 1, tent, ptbn and the like need a prior.

    ```python
    for answer in adapt_folder(bundle, Path("photos")):
        print(answer.path, answer.prediction, answer.confidence)
    ```

    Args:
        bundle: The bundle that adapts.
        images: A folder, searched recursively, or a zip.
        method: A name of `METHODS`; None takes the bundle's.
        settings: Settings in place of the method's own.
        batch: Number of images in a batch.
        device: Where to run; None takes a GPU if there is one.
        memory_limit: The most memory that the process may hold; see `Adapter`.
        progress: Called with the number of images that are done.
        shuffle: Take the images in a random order, by the settings' seed.
        checkpoints: Keeps how far the run has come.
        guard: Makes a guard around the adapter, or none; see `acclimate.guard.Guard`.

    Yields:
        One answer per image; for an image that cannot be read, the reason.

    Raises:
        InputError: there is no image, or none that can be read; and as `Adapter`.
    """
    where = {"device": device, "memory_limit": memory_limit}
    found, adapter = _look_through(images, batch), Adapter(bundle, method, settings, **where)
    run = _run(bundle, adapter, found, batch, shuffle, memory_limit, guard)
    total = len(found.items)
    done = checkpoints.begin(run) if checkpoints else 0
    readable, reason = done > 0, ""
    with ThreadPoolExecutor() as pool:
        for part in _batches(run, done):
            opened = list(pool.map(partial(_open, preprocessing=bundle.preprocessing), part))
            for answer in _batch_answers(run, part, opened):
                readable = readable or not answer.skipped
                reason = reason or f"{answer.path}: {answer.skipped}"
                yield answer
            done += len(part)
            progress("adapt and answer", done, total, "")
            if checkpoints:
                checkpoints.batch_done(done)
    _check_readable(readable, total, images, reason)


def _run(
    bundle: Bundle,
    adapter: Adapter,
    found: Survey,
    batch: int,
    shuffle: bool,
    memory_limit: str | int | None,
    make_guard: Callable[[Adapter], Guarded | None] | None,
) -> FolderRun:
    guard = make_guard(adapter) if make_guard else None
    frozen = guard.frozen if guard else frozen_beside(adapter, bundle, memory_limit)
    shuffled = key(adapter.settings.seed, "shuffle")
    order = permutation(shuffled, len(found.items)) if shuffle else None
    return FolderRun(bundle, adapter, frozen, found, order, batch, guard)


def _check_readable(readable: bool, total: int, images: Path, reason: str) -> None:
    if not readable:
        raise InputError(f"none of the {total} images in {images} could be read; {reason}")


def _look_through(images: Path, batch: int) -> Survey:
    if batch < 1:
        raise InputError(f"batch must be 1 or more, not {batch}.")
    if not images.exists():
        raise InputError(f"there is no folder or zip {images}; check the path.")
    return folders.look_through(images)


def _batch_answers(
    run: FolderRun, part: list[Item], opened: list[Tensor | str]
) -> Iterator[Answer]:
    """The answers of one batch, from each item's pixels or the reason why it has none."""
    good = [pixels for pixels in opened if isinstance(pixels, Tensor)]
    answered = iter(_answers(torch.stack(good), run) if good else ())
    for item, pixels in zip(part, opened):
        if isinstance(pixels, str):
            yield Answer(item.path, skipped=pixels)
        else:
            yield Answer(item.path, *_named(next(answered), run.bundle.classes))


def _batches(run: FolderRun, start: int) -> Iterator[list[Item]]:
    """The items of each batch, from an item on. Those that are not read do not fill a batch."""
    items, part = run.found.items, []
    readable = 0
    for place in range(start, len(items)):
        item = items[place if run.order is None else int(run.order[place])]
        part.append(item)
        readable += not item.left_out
        if readable == run.batch:
            yield part
            part, readable = [], 0
    if part:
        yield part


def write_predictions(answers: Iterable[Answer], path: Path) -> None:
    """Write answers as a CSV file, atomically.

    The file is UTF-8. A path that is no UTF-8 is written as its bytes: read it with
    ``errors="surrogateescape"``.

    Raises:
        InputError: the file cannot be written.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(as_row(COLUMNS))
            file.writelines(row_of(answer) for answer in answers)

    atomic.write_atomically(path, write)


def row_of(answer: Answer) -> bytes:
    """An answer as a line of the CSV file."""
    row = [getattr(answer, column) for column in COLUMNS]
    return as_row(f"{value:.4f}" if isinstance(value, float) else value for value in row)


def as_row(values: Iterable[Any]) -> bytes:
    """Values as a line of a CSV file; file names keep their bytes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(values)  # so that both are quoted in names
    return f"{text.getvalue()[:-2]}\n".encode("utf-8", "surrogateescape")


def _open(item: Item, preprocessing: Preprocessing) -> Tensor | str:
    """The image as uint8 ``[channels, height, width]``, or why it cannot be read."""
    try:
        image = decode.resize_and_crop(item.open(), preprocessing)
    except InputError as error:
        return str(error)
    except decode.BROKEN as error:
        return str(decode.damaged(error))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _answers(images: Tensor, run: FolderRun) -> list[tuple[float, int, float, int]]:
    """Confidence and class of each image, as given and of the frozen model."""
    answers = run.guard(images) if run.guard else run.adapter(images)
    if run.guard and run.guard.both:
        frozen = run.guard.both[0]
    else:  # the frozen classifier by itself need not answer twice
        frozen = answers if run.frozen is run.adapter else run.frozen(images)
    given, plain = (logits.softmax(1).max(1) for logits in (answers, frozen))
    columns = (given.values, given.indices, plain.values, plain.indices)
    return list(zip(*(column.tolist() for column in columns)))


def _named(
    answer: tuple[float, int, float, int], classes: tuple[str, ...]
) -> tuple[str, float, str, float]:
    confidence, prediction, frozen_confidence, frozen_prediction = answer
    return classes[prediction], confidence, classes[frozen_prediction], frozen_confidence
