"""``manifest.json``: what corrupted images a folder holds, and the checksums of its files."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from acclimate.errors import InputError
from acclimate.storage import atomic

NAME = "manifest.json"
FORMAT = "acclimate corrupted images"
VERSION = 1
LAYOUTS = ("npy", "folders")

REMEDY = "run acclimate corrupt again, with another --out"
REPAIR = "run the same acclimate corrupt again to repair it"


@dataclass(frozen=True)
class Manifest:
    """What a folder of corrupted images holds."""

    layout: str
    """``npy`` or ``folders``."""
    classes: tuple[str, ...] | None
    """None if the images have no labels."""
    count: int
    """Images for each corruption at each severity."""
    size: tuple[int, int]
    """Height and width."""
    severities: tuple[int, ...]
    """In the order in which an array stacks them."""
    corruptions: tuple[str, ...]
    files: dict[str, str]
    """SHA-256 of each file, or of each ``CORRUPTION/SEVERITY`` as :func:`checksum` gives it."""

    @property
    def domains(self) -> tuple[str, ...]:
        """``CORRUPTION/SEVERITY`` for all that is there."""
        return tuple(f"{name}/{each}" for name in self.corruptions for each in self.severities)


def is_ours(folder: Path) -> bool:
    """Whether a folder's manifest.json, readable or damaged, is of this kind."""
    try:
        return FORMAT.encode() in (folder / NAME).read_bytes()
    except OSError:
        return False


def read(folder: Path) -> Manifest:
    """Read and check a folder's manifest.

    Raises:
        InputError: it is damaged, unfinished or of a newer version.
    """
    path, record = folder / NAME, read_record(folder)
    version = record.get("version")
    if type(version) is int and version > VERSION:
        raise InputError(f"{path} is of version {version}: upgrade acclimate to read it.")
    if record.get("complete") is False:
        raise InputError(
            f"{folder} is unfinished, as its {NAME} says: run acclimate corrupt again to finish it."
        )
    for key, fits in _FITS.items():
        if key not in record or not fits(record[key]):
            raise InputError(f"{path} is damaged, {key!r} is missing or makes no sense: {REMEDY}.")
    classes = record["classes"]
    if record["layout"] == "folders" and not all(map(_is_plain, classes or ())):
        raise InputError(f"{path} is damaged, a class cannot be the name of a folder: {REMEDY}.")
    return Manifest(
        record["layout"],
        classes and tuple(classes),
        record["count"],
        (record["size"][0], record["size"][1]),
        tuple(record["severities"]),
        tuple(record["corruptions"]),
        record["files"],
    )


def read_record(folder: Path) -> dict[str, Any]:
    """A folder's manifest as it stands, with the right format and not further checked.

    Raises:
        InputError: it is damaged.
    """
    path = folder / NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged, it is not readable JSON: {REMEDY}.") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(f"{path} is damaged, its format is not {FORMAT!r}: {REMEDY}.")
    return record


def verify(folder: Path, manifest: Manifest, name: str) -> None:
    """Compare a file, or the files of ``CORRUPTION/SEVERITY``, with the manifest's checksum.

    What did not change since it was verified by this process is not read again.

    Raises:
        InputError: missing or changed.
    """
    path = folder / name
    if name not in manifest.files:
        raise InputError(f"{folder / NAME} is damaged, it has no checksum of {name}: {REMEDY}.")
    if not path.exists():
        raise InputError(f"{path} is missing, though {NAME} lists it: {REPAIR}.")
    try:
        found = _checksum(path, _state(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): {REMEDY}.") from error
    if found != manifest.files[name]:
        raise InputError(f"{path} has changed, its checksum is not that of {NAME}: {REPAIR}.")


def checksum(path: Path) -> str:
    """The SHA-256 of a file; for a folder that of a list of its files.

    The list has a line ``relative/path sha256`` for each file below the folder, hidden ones
    excepted, with the path relative to that folder, and is sorted.
    """
    if path.is_file():
        return atomic.sha256(path)
    return listed([f"{name} {atomic.sha256(path / name)}\n" for name in _below(path)])


def listed(lines: Sequence[str]) -> str:
    """The checksum of a folder from its files' lines; names may be of any bytes."""
    return hashlib.sha256(os.fsencode("".join(sorted(lines)))).hexdigest()


@lru_cache(maxsize=4096)
def _checksum(path: Path, state: int) -> str:
    return checksum(path)


def _state(path: Path) -> int:
    """Changes when a file does, as far as its size and times tell."""
    names = [""] if path.is_file() else _below(path)
    stats = [(name, (path / name).stat()) for name in names]
    return hash(tuple((name, each.st_size, each.st_mtime_ns) for name, each in stats))


def _below(folder: Path) -> list[str]:
    names = (each.relative_to(folder) for each in folder.rglob("*") if each.is_file())
    return sorted(n.as_posix() for n in names if not any(p.startswith(".") for p in n.parts))


def _is_plain(name: Any) -> bool:
    """Whether it is the name of a file or folder and leads nowhere else."""
    return isinstance(name, str) and bool(re.fullmatch(r"[^/\\.\0][^/\\\0]*", name))


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_list_of(fits: Any) -> Any:
    def check(value: Any) -> bool:
        if not isinstance(value, list) or not value or not all(map(fits, value)):
            return False
        return len(set(value)) == len(value)

    return check


def _is_relative(name: Any) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _are_checksums(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _is_relative(name) and isinstance(each, str) and re.fullmatch("[0-9a-f]{64}", each)
        for name, each in value.items()
    )


_FITS: dict[str, Any] = {
    "complete": lambda value: value is True,
    "version": lambda value: type(value) is int and value == VERSION,
    "layout": lambda value: value in LAYOUTS,
    "classes": lambda value: value is None or _is_list_of(lambda n: isinstance(n, str))(value),
    "count": _is_count,
    "size": lambda value: (
        isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))
    ),
    "severities": _is_list_of(lambda value: type(value) is int and 1 <= value <= 5),
    "corruptions": _is_list_of(_is_plain),
    "files": _are_checksums,
}
"""What each entry of a manifest must be."""
