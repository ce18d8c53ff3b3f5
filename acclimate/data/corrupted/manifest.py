"""``manifest.json``: the content of a folder of corrupted images, and checksums of its files."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from acclimate.errors import InputError
from acclimate.storage import atomic
from acclimate.storage.names import as_text

NAME = "manifest.json"
FORMAT = "acclimate corrupted images"
VERSION = 1
LAYOUTS = ("npy", "folders")

REMEDY = "run acclimate corrupt again, with another --out"
REPAIR = "run the same acclimate corrupt again to repair it"


@dataclass(frozen=True)
class Manifest:
    """The content of a folder of corrupted images."""

    layout: str
    """Layout on disk, ``npy`` or ``folders``."""
    classes: tuple[str, ...] | None
    """Names of the classes; None if the images have no labels."""
    count: int
    """Number of images under each corruption at each severity."""
    size: tuple[int, int]
    """Height and width of the images in pixels."""
    severities: tuple[int, ...]
    """Severities, in the order in which an array stacks them."""
    corruptions: tuple[str, ...]
    """Names of the corruptions."""
    files: dict[str, str]
    """SHA-256 of each file, or of each ``CORRUPTION/SEVERITY`` as ``checksum`` gives it."""

    @property
    def domains(self) -> tuple[str, ...]:
        """All domains ``CORRUPTION/SEVERITY``."""
        return tuple(f"{name}/{each}" for name in self.corruptions for each in self.severities)


def is_ours(folder: Path) -> bool:
    """Whether a folder has a manifest.json of corrupted images, even a damaged one."""
    try:
        return FORMAT.encode() in (folder / NAME).read_bytes()
    except OSError:
        return False


def read(folder: Path) -> Manifest:
    """Read and check a folder's manifest.

    ```python
    read(Path("fashion-c")).domains  # ("gaussian_noise/1", "gaussian_noise/2", ...)
    ```

    Raises:
        InputError: the manifest is damaged, of a newer version, or of an unfinished data set.
    """
    path, record = folder / NAME, read_record(folder)
    version = record.get("version")
    if type(version) is int and version > VERSION:
        raise InputError(f"{path} is of version {version}: upgrade acclimate to read it.")
    if record.get("complete") is False:
        raise InputError(
            f"{folder} is unfinished, as its {NAME} says: run acclimate corrupt again to finish it."
        )
    for key, is_valid in _VALIDATORS.items():
        if key not in record or not is_valid(record[key]):
            raise InputError(f"{path} is damaged, {key!r} is missing or invalid: {REMEDY}.")
    classes = record["classes"]
    if record["layout"] == "folders" and not all(map(_is_file_name, classes or ())):
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
    """Read a folder's manifest as a dictionary; only its format is checked.

    Raises:
        InputError: the manifest is no readable JSON or has another format.
    """
    path = folder / NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged, it is not readable JSON: {REMEDY}.") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(f"{path} is damaged, its format is not {FORMAT!r}: {REMEDY}.")
    return record


def verify(folder: Path, manifest: Manifest, name: str) -> None:
    """Compare the checksum of a file or of a folder ``CORRUPTION/SEVERITY`` with the manifest.

    A file that has not changed since this process verified it is not read again.

    Raises:
        InputError: the file or folder is missing or has changed.
    """
    path = folder / name
    if name not in manifest.files:
        raise InputError(f"{folder / NAME} is damaged, it has no checksum of {name}: {REMEDY}.")
    if not path.exists():
        raise InputError(f"{path} is missing, though {NAME} lists it: {REPAIR}.")
    try:
        actual = _checksum(path, _state(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): {REMEDY}.") from error
    if actual != manifest.files[name]:
        raise InputError(f"{path} has changed, its checksum is not that of {NAME}: {REPAIR}.")


def checksum(path: Path) -> str:
    """The SHA-256 of a file, or `folder_checksum` of a folder's files except hidden ones."""
    if path.is_file():
        return atomic.sha256(path)
    lines = [f"{as_text(name)} {atomic.sha256(path / name)}\n" for name in _visible_files(path)]
    return folder_checksum(lines)


def folder_checksum(lines: Sequence[str]) -> str:
    r"""The SHA-256 of the sorted list of a folder's files.

    Args:
        lines: ``relative/path sha256\n`` for each file; a path may hold any bytes.
    """
    text = "".join(sorted(lines))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


@lru_cache(maxsize=4096)
def _checksum(path: Path, state: int) -> str:
    return checksum(path)


def _state(path: Path) -> int:
    """A hash of the files' sizes and modification times, to detect changes."""
    names = [""] if path.is_file() else _visible_files(path)
    stats = [(name, (path / name).stat()) for name in names]
    return hash(tuple((name, each.st_size, each.st_mtime_ns) for name, each in stats))


def _visible_files(folder: Path) -> list[str]:
    names = (each.relative_to(folder) for each in folder.rglob("*") if each.is_file())
    return sorted(n.as_posix() for n in names if not any(p.startswith(".") for p in n.parts))


def _is_file_name(name: Any) -> bool:
    """Whether this is the name of a file or folder without a path; hidden names are excluded."""
    return isinstance(name, str) and bool(re.fullmatch(r"[^/\\.\0][^/\\\0]*", name))


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_list_of(is_valid: Any) -> Any:
    """A check for a list that is not empty, whose elements are valid and distinct."""

    def check(value: Any) -> bool:
        if not isinstance(value, list) or not value or not all(map(is_valid, value)):
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


_VALIDATORS: dict[str, Any] = {
    "complete": lambda value: value is True,
    "version": lambda value: type(value) is int and value == VERSION,
    "layout": lambda value: value in LAYOUTS,
    "classes": lambda value: value is None or _is_list_of(lambda n: isinstance(n, str))(value),
    "count": _is_count,
    "size": lambda value: (
        isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))
    ),
    "severities": _is_list_of(lambda value: type(value) is int and 1 <= value <= 5),
    "corruptions": _is_list_of(_is_file_name),
    "files": _are_checksums,
}
"""The check that each entry of a manifest must pass."""
