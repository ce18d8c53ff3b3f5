"""The two layouts of a corrupted data set: one array per corruption, or folders of image files."""

import hashlib
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from acclimate.data.corrupted.manifest import folder_checksum
from acclimate.data.corrupted.plan import Format, Part
from acclimate.data.corruptions import corrupt
from acclimate.data.decode import SUFFIXES
from acclimate.data.images import Images, LabelledImages
from acclimate.storage import atomic
from acclimate.storage.names import as_file_name

JPEG_QUALITY = 85
"""JPEG quality of the published benchmarks."""

_CHUNK_VALUES = 2**22
_LONGEST_NAME = 255  # bytes in a file name


def write_array(
    images: UInt8[Tensor, "n 3 h w"],
    seed: int,
    out: Path,
    part: Part,
    advance: Callable[[int], None],
) -> str:
    """Write the ``.npy`` file of one corruption and return its SHA-256."""
    path, (count, _, height, width) = out / part.key, images.shape

    header = {
        "descr": "|u1",
        "fortran_order": False,
        "shape": (len(part.severities) * count, height, width, 3),
    }

    def write(temporary: Path) -> None:
        # Not through a memory map: on a full disk it would kill the process.
        with temporary.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for severity in part.severities:
                for _, chunk in _chunks(images, part.corruption, severity, seed):
                    file.write(np.ascontiguousarray(chunk).data)
                    advance(len(chunk))

    atomic.write_atomically(path, write)
    return atomic.sha256(path)


def write_labels(labels: Int64[Tensor, " n"], blocks: int, out: Path) -> str:
    """Write ``labels.npy``, the labels repeated for each severity, and return its SHA-256."""
    path = out / "labels.npy"
    values = np.tile(labels.numpy(), blocks)
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    atomic.write_atomically(path, lambda temporary: temporary.write_bytes(file.getvalue()))
    return atomic.sha256(path)


def write_folder(
    images: UInt8[Tensor, "n 3 h w"],
    names: Sequence[str],
    image_format: Format,
    seed: int,
    out: Path,
    part: Part,
    advance: Callable[[int], None],
) -> str:
    """Write the folder of one severity and return its checksum, see `folder_checksum`."""
    target = out / part.key
    temporary = out / f".{part.key.replace('/', '-')}.partial"
    lines = []
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in {Path(name).parent for name in names}:
            (temporary / as_file_name(str(folder))).mkdir(parents=True, exist_ok=True)
        for start, chunk in _chunks(images, part.corruption, part.severities[0], seed):
            for path, pixels in zip(names[start:], chunk):
                encoded = _encode(pixels, image_format)
                (temporary / as_file_name(path)).write_bytes(encoded)
                lines.append(f"{path} {hashlib.sha256(encoded).hexdigest()}\n")
            advance(len(chunk))
        os.sync()  # syncing thousands of small files one by one would take minutes
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        temporary.rename(target)
    except OSError as error:
        raise atomic.cannot_write(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder_checksum(lines)


def _chunks(
    images: UInt8[Tensor, "n 3 h w"], corruption: str, severity: int, seed: int
) -> Iterator[tuple[int, UInt8[np.ndarray, "chunk h w 3"]]]:
    """Yield the corrupted images in chunks, each with the index of its first image."""
    step = max(1, _CHUNK_VALUES // images[0].numel())
    for start in range(0, len(images), step):
        chunk = images[start : start + step]
        chunk = corrupt(chunk, corruption, severity, seed=seed, first_index=start)
        yield start, chunk.permute(0, 2, 3, 1).numpy()


def _encode(pixels: UInt8[np.ndarray, "h w 3"], image_format: Format) -> bytes:
    file = io.BytesIO()
    options = {"quality": JPEG_QUALITY} if image_format == "jpeg" else {}
    Image.fromarray(pixels).save(file, image_format, **options)
    return file.getvalue()


def file_names(data: LabelledImages | Images, image_format: Format) -> list[str]:
    """Path of each image below its severity's folder: its original name if usable, else a number.

    Original names are used if all of them are names of image files, stay inside the folder, are
    short enough for the file system and do not collide.
    """
    suffix = {"jpeg": ".JPEG", "png": ".png"}[image_format]
    paths = [PurePosixPath(path) for path in data.paths]
    if isinstance(data, LabelledImages):
        folders = [PurePosixPath(as_folder(data.classes[label])) for label in data.labels.tolist()]
        names = [folder / path.stem for folder, path in zip(folders, paths)]
    else:
        folders = [PurePosixPath()] * len(data.images)
        names = [path.with_suffix("") for path in paths]
    are_files = all(path.suffix.lower() in SUFFIXES for path in paths)
    # A zip may hold any name, even one outside the folder.
    inside = not any(name.is_absolute() or ".." in name.parts for name in names)
    files = [f"{name}{suffix}" for name in names]
    short = all(_fits(PurePosixPath(name).name) for name in files)
    parents = {parent for name in files for parent in PurePosixPath(name).parents}
    unique = len({*files, *map(str, parents)}) == len(files) + len(parents)
    if not (are_files and inside and short and unique):
        files = [f"{folder / str(i).zfill(6)}{suffix}" for i, folder in enumerate(folders)]
    return files


def _fits(name: str) -> bool:
    """Whether a file can have the name."""
    try:
        return len(name.encode("utf-8", "surrogateescape")) <= _LONGEST_NAME
    except UnicodeEncodeError:
        return False


def as_folder(name: str) -> str:
    """Turn a class name into the name of a folder."""
    return re.sub(r"[/\\\0]", "_", name).lstrip(".") or "_"
