"""Write a corrupted data set on all cores; an interrupted run can be resumed."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Lock
from typing import Any, NamedTuple

import torch

from acclimate.data.corrupted.begin import begin, check_place, describe, write_manifest
from acclimate.data.corrupted.layouts import file_names, write_array, write_folder, write_labels
from acclimate.data.corrupted.plan import CorruptionPlan, Part
from acclimate.data.images import Images, LabelledImages
from acclimate.runtime.progress import Progress, silent
from acclimate.storage.atomic import only_writer


class Corrupted(NamedTuple):
    """The result of `write_corrupted`."""

    manifest: dict[str, Any]
    """The manifest as written."""
    made: int
    """Number of images written by this run; fewer than all of them if it resumed another."""


class _StoppedError(Exception):
    """Another part has failed, or the user has interrupted the run."""


def write_corrupted(
    data: LabelledImages | Images,
    name: str,
    out: Path,
    plan: CorruptionPlan = CorruptionPlan(),  # noqa: B008
    *,
    progress: Progress = silent,
) -> Corrupted:
    """Write every image under every corruption and severity, on all cores.

    After an interruption, call it again to continue. Parts that are missing or whose checksum has
    changed are then written, and the files are the same as those of an uninterrupted run. Each
    array or folder is written atomically.

    ```python
    data = load("fashion-mnist-mini", "test")
    write_corrupted(data, "fashion-mnist-mini", Path("fashion-c"), CorruptionPlan(("fog",)))
    ```

    Args:
        data: Images with labels, or without: these get no ``labels.npy`` and no class folders.
        name: Name of the data in the manifest.
        out: Folder to create or to complete.
        plan: Corruptions, severities, seed, layout.
        progress: Called with the number of images written.

    Returns:
        The manifest as written, and the number of images written by this call.

    Raises:
        InputError: there are no images; ``out`` holds something else, or a corrupted data set with
            other settings; another run is writing it; or it cannot be written.
    """
    description = describe(data, name, plan)
    check_place(out)
    with only_writer(out):
        manifest = begin(out, description, progress)
        done = manifest["files"]
        if manifest["layout"] == "npy":
            write = partial(write_array, data.images, plan.seed, out)
            if isinstance(data, LabelledImages):
                done["labels.npy"] = write_labels(data.labels, len(plan.severities), out)
        else:
            names = file_names(data, plan.image_format)
            write = partial(write_folder, data.images, names, plan.image_format, plan.seed, out)
        parts = plan.parts(manifest["layout"])
        missing = [part for part in parts if part.key not in done]
        if missing:
            write_manifest(out, manifest)
        total, remaining = (len(data.images) * _severities(some) for some in (parts, missing))
        for part, checksum in _in_threads(write, missing, total - remaining, total, progress):
            done[part.key] = checksum
            write_manifest(out, manifest)
        manifest["complete"] = True
        write_manifest(out, manifest)
    return Corrupted(manifest, remaining)


def _severities(parts: Sequence[Part]) -> int:
    return sum(len(part.severities) for part in parts)


def _in_threads(
    write: Callable[[Part, Callable[[int], None]], str],
    parts: Sequence[Part],
    done: int,
    total: int,
    progress: Progress,
) -> Iterator[tuple[Part, str]]:
    """Write the parts, one per core; yield each with its checksum when it is written."""
    lock, stop = Lock(), Event()

    def advance(part: Part, images: int) -> None:
        nonlocal done
        if stop.is_set():
            raise _StoppedError
        with lock:
            done += images
            progress("corrupt", done, total, part.key)

    with _one_thread_each(), ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = {pool.submit(write, part, partial(advance, part)): part for part in parts}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:  # after an error or an interrupt, the other threads stop at their next chunk
            stop.set()
            pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Run each operation on one thread: parts in parallel use the cores better."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
