"""Write a corrupted set: all cores, a whole array or folder at a time, and go on if killed."""

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
from acclimate.data.datasets import Images, LabelledImages
from acclimate.runtime.progress import Progress, silent
from acclimate.storage.atomic import only_writer


class Corrupted(NamedTuple):
    """What was written."""

    manifest: dict[str, Any]
    made: int
    """Images corrupted now; less than all of them where an earlier run was resumed."""


class _StoppedError(Exception):
    """Another part has failed, or the user has interrupted."""


def write_corrupted(
    data: LabelledImages | Images,
    name: str,
    out: Path,
    plan: CorruptionPlan = CorruptionPlan(),  # noqa: B008
    *,
    progress: Progress = silent,
) -> Corrupted:
    """Write every image under every corruption and severity, on all cores.

    Killed, it goes on when it is called again with what is missing or has another checksum than it
    had; the files are the same as those of an uninterrupted run. Arrays and folders appear whole or
    not at all.

    Args:
        data: Images with labels, or without: these have no ``labels.npy`` and no class folders.
        name: What to call the data in the manifest.
        out: The folder to make, or to go on with.
        plan: Corruptions, severities, seed, layout.
        progress: Told of images done.

    Returns:
        The manifest as it was written, and how much was still to do.

    Raises:
        InputError: there are no images; ``out`` holds something else, or the same with other
            settings; another run is writing it; or it cannot be written to.
    """
    described = describe(data, name, plan)
    check_place(out)
    with only_writer(out):
        manifest = begin(out, described, progress)
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
        total, to_do = (len(data.images) * _severities(some) for some in (parts, missing))
        for part, checksum in _in_threads(write, missing, total - to_do, total, progress):
            done[part.key] = checksum
            write_manifest(out, manifest)
        manifest["complete"] = True
        write_manifest(out, manifest)
    return Corrupted(manifest, to_do)


def _severities(parts: Sequence[Part]) -> int:
    return sum(len(part.severities) for part in parts)


def _in_threads(
    write: Callable[[Part, Callable[[int], None]], str],
    parts: Sequence[Part],
    done: int,
    total: int,
    progress: Progress,
) -> Iterator[tuple[Part, str]]:
    """Write the parts, one a core; give each with its checksum once it is there."""
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
        finally:  # after an error in one, or an interrupt, the others end at their next chunk
            stop.set()
            pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Parts side by side use the cores better than each small operation split among them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
