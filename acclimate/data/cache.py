"""Cache of decoded images: memory-mapped uint8 arrays on disk, keyed by the images' content."""

import hashlib
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import platformdirs
from jaxtyping import UInt8
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from acclimate.data import decode
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing
from acclimate.storage import atomic

T = TypeVar("T")
R = TypeVar("R")


class Skipped(NamedTuple):
    """An image that could not be used."""

    path: str
    """Path relative to the folder or archive."""
    reason: str
    """Why it could not be used, as a sentence."""


@dataclass(frozen=True)
class Item:
    """An image that is not decoded yet."""

    path: str
    """Path relative to the folder or archive, with forward slashes."""
    fingerprint: Callable[[], str]
    """Function that returns a string which changes whenever the content does; never raises."""
    open: Callable[[], Image.Image]
    """Function that returns the image as 8-bit RGB, or raises InputError with the reason."""
    left_out: bool = False
    """Whether it is known, before it is opened, that it is not read."""


class Decoded(NamedTuple):
    """The images that could be decoded, in order, and those that could not."""

    images: UInt8[np.ndarray, "n height width channels"]
    """Pixels 0..255, a read-only memory map."""
    paths: tuple[str, ...]
    """Path of each image in ``images``."""
    skipped: tuple[Skipped, ...]
    """Images that could not be decoded, and why."""


def folder(cache: Path | None) -> Path:
    """The cache folder: the argument, else ``$ACCLIMATE_CACHE``, else the user's cache folder."""
    chosen = cache or os.environ.get("ACCLIMATE_CACHE") or platformdirs.user_cache_dir("acclimate")
    return Path(chosen).expanduser()


def decoded(
    items: Sequence[Item], *, preprocessing: Preprocessing | None, cache: Path | None
) -> Decoded:
    """Decode images, or read their pixels from the cache if the same content was decoded before.

    The array and then its description are written atomically. So several processes may decode the
    same images at the same time, and an array without a description is written again.

    Args:
        items: Images to decode, in the order of the result; at least one.
        preprocessing: How to resize and crop. None does not; all images must then have the same
            size.
        cache: The cache folder, see ``folder``.

    Raises:
        InputError: no image could be decoded, sizes differ, or the cache cannot be written.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        array = folder(cache) / f"{_key(items, preprocessing, pool)}.uint8"
        result = _read(array, items)
        if result is None:
            _write(array, items, preprocessing, pool)
            result = _read(array, items)
    if result is None:
        raise InputError(f"{array} changed while it was read: choose another cache folder.")
    return result


def _key(items: Sequence[Item], preprocessing: Preprocessing | None, pool: Executor) -> str:
    blocks = [items[start : start + 256] for start in range(0, len(items), 256)]
    hashed = pool.map(lambda block: [[item.path, item.fingerprint()] for item in block], blocks)
    content = [pair for block in hashed for pair in block]
    pixels = preprocessing and preprocessing.pixels
    return hashlib.sha256(
        json.dumps([decode.VERSION, decode.formats(), pixels, content]).encode()
    ).hexdigest()


def _read(array: Path, items: Sequence[Item]) -> Decoded | None:
    """Open a cached array. None if it is missing, truncated or does not fit the items."""
    try:
        description = json.loads(array.with_suffix(".json").read_text(encoding="utf-8"))
        shape = tuple(description["shape"])
        skipped = tuple(Skipped(*each) for each in description["skipped"])
        skipped_paths = {each.path for each in skipped}
        paths = tuple(item.path for item in items if item.path not in skipped_paths)
        if len(paths) != shape[0] or array.stat().st_size != math.prod(shape):
            return None
        return Decoded(np.memmap(array, np.uint8, mode="r", shape=shape), paths, skipped)
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _write(
    array: Path, items: Sequence[Item], preprocessing: Preprocessing | None, pool: Executor
) -> None:
    skipped: list[Skipped] = []
    shape: tuple[int, ...] = ()

    def write(temporary: Path) -> None:
        nonlocal shape
        results = _bounded_map(pool, partial(_open, preprocessing=preprocessing), items)
        with temporary.open("wb") as file:
            shape = _write_pixels(file.write, _with_progress(results, len(items)), skipped)

    atomic.write_atomically(array, write)
    atomic.write_text(
        array.with_suffix(".json"), json.dumps({"shape": shape, "skipped": skipped}) + "\n"
    )


def _write_pixels(
    write: Callable[[bytes], object],
    results: Iterable[tuple[str, np.ndarray | str]],
    skipped: list[Skipped],
) -> tuple[int, ...]:
    """Write the images one after another, collect the unusable ones, return the array's shape."""
    count, first, shape = 0, "", ()
    for path, result in results:
        if isinstance(result, str):
            skipped.append(Skipped(path, result))
            continue
        if not count:
            first, shape = path, result.shape
        if result.shape != shape:
            raise InputError(
                f"the images differ in size ({first} is {_width_by_height(shape)}, {path} is "
                f"{_width_by_height(result.shape)}): pass --size to resize and crop them all."
            )
        write(result.tobytes())
        count += 1
    if not count:
        raise InputError(
            f"none of the {len(skipped)} images can be used; {skipped[0].path}: {skipped[0].reason}"
        )
    return (count, *shape)


def _width_by_height(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"


def _open(item: Item, preprocessing: Preprocessing | None) -> tuple[str, np.ndarray | str]:
    """The item's path, with its pixels or with the reason why it cannot be used."""
    try:
        image = item.open()
        if preprocessing is None:
            return item.path, np.asarray(image)
        return item.path, decode.resize_and_crop(image, preprocessing)
    except InputError as error:
        return item.path, str(error)


def _bounded_map(pool: Executor, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Map in the pool, in order, with a bounded number of pending results to limit memory."""
    window = 8 * (os.cpu_count() or 1)
    pending = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _with_progress(results: Iterable[T], total: int) -> Iterator[T]:
    """Show a progress bar if standard error is a terminal and decoding takes over a second."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from results
        return
    progress = Progress(console=console, transient=True)
    task = progress.add_task("decoding images", total=total)
    started = time.monotonic()
    try:
        for result in results:
            yield result
            progress.advance(task)
            if time.monotonic() - started > 1:
                progress.start()
    finally:
        progress.stop()
