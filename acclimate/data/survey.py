"""What lies in a folder or a zip: its images, what may be one but is not read, and the rest."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import overload

from PIL import Image

from acclimate.data import decode
from acclimate.data.cache import Item
from acclimate.errors import InputError
from acclimate.storage import atomic
from acclimate.storage.names import as_file_name, as_text

_ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_SUFFIXES = """.txt .json .jsonl .csv .tsv .md .rst .xml .yaml .yml .toml .ini .cfg .log .html .htm
    .css .js .py .ipynb .sh .bat .mat .npy .npz .pt .pth .safetensors .pkl .h5 .hdf5 .parquet .db
    .sqlite .lock .sha1 .sha256 .md5 .aae .xmp .srt .lnk .url .mp4 .mov .avi .mkv .webm .m4v .3gp
    .mp3 .wav .doc .docx .xls .xlsx .ppt .pptx .odt .rtf .bib .tex
    .partial .state"""
_COMPANIONS = frozenset(_SUFFIXES.split())
"""Suffixes of files that stand beside images and are none: they are counted, not listed."""
_TEXTS = frozenset({"readme", "license", "licence", "copying", "makefile", "md5sums", "sha256sums"})
_SYSTEM = frozenset({".ds_store", "thumbs.db", "desktop.ini"})


class Items(Sequence[Item]):
    """Items that are made when they are asked for: millions of paths take little memory.

    Args:
        paths: Their paths.
        make: Makes the item of a path.
    """

    def __init__(self, paths: Sequence[str], make: Callable[[str], Item]):
        self.paths = paths
        self._make = make

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self._make(path) for path in self.paths[index]]
        return self._make(self.paths[index])


@dataclass(frozen=True)
class Survey:
    """What lies in a folder or a zip."""

    items: Items
    """In natural path order: the images, and what may be one but is known not to be read."""
    left_out: Mapping[str, str]
    """Reason why an item is not read, by its path."""
    others: Counter[str]
    """Number of files that are no images, by suffix or kind."""
    stamp: Callable[[str], str]
    """Size and time, or checksum, of an item by its path: changes when the file does."""


def of_folder(root: Path) -> Survey:
    """Look through a folder and all folders below it, also by links, but not in a circle.

    Raises:
        InputError: the folder cannot be read.
    """
    paths: list[str] = []
    left_out: dict[str, str] = {}
    others: Counter[str] = Counter()
    for path, reason in _walk(root, others):
        paths.append(path)
        if reason:
            left_out[path] = reason

    def make(path: str) -> Item:
        if path in left_out:
            return refused(path, left_out[path])
        file = root / as_file_name(path)
        return Item(path, partial(_hash_file, file), partial(decode.decode, file))

    def stamp(path: str) -> str:
        try:
            state = os.stat(root / as_file_name(path))  # noqa: PTH116, much faster
        except OSError:
            return ""
        return f"{state.st_size} {state.st_mtime_ns}"

    return Survey(Items(paths, make), left_out, others, stamp)


def refused(path: str, reason: str) -> Item:
    """An item that is skipped for a reason when it is opened."""

    def refuse() -> Image.Image:
        raise InputError(reason)

    return Item(path, lambda: reason, refuse, left_out=True)


def why_not(name: str, others: Counter[str]) -> str | None:
    """Why a file of this name is not read; empty for an image, None for what is only counted."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122, much faster
    if name.startswith("._") or name.lower() in _SYSTEM:
        others["files of the system"] += 1
    elif name.startswith("."):
        if suffix in decode.SUFFIXES:
            return "it is hidden, since its name begins with a dot."
        others["hidden files"] += 1
    elif suffix in decode.SUFFIXES:
        return ""
    elif suffix in _ARCHIVES:
        return "it is an archive; unpack it."
    elif suffix in _COMPANIONS:
        others[suffix] += 1
    elif name.lower() in _TEXTS:
        others["texts"] += 1
    elif not suffix:
        return "its name has no suffix; name it as an image, such as .jpg, if it is one."
    else:
        return f"files that end in {suffix} are not read; convert it to JPEG or PNG."
    return None


def is_hidden_folder(name: str) -> bool:
    """Whether a folder's images are not looked at: hidden ones, and copies that macOS adds."""
    return (name.startswith(".") and name not in (".", "..")) or name == "__MACOSX"


def natural(name: str) -> tuple[str, str]:
    """Sort key of one name that compares numbers by value, so that 2 comes before 10."""

    def number(match: re.Match[str]) -> str:
        digits = match[0].lstrip("0")
        return f"\0{chr(len(digits))}{digits}\0"  # the number of digits first

    return re.sub("[0-9]+", number, name), name


def _walk(root: Path, others: Counter[str]) -> Iterator[tuple[str, str]]:
    """Yield the path of each image, and the reason if it is not read, in natural path order."""
    try:
        seen = {_identity(os.stat(root))}  # noqa: PTH116
        stack = [iter(_entries(root, ""))]
    except OSError as error:
        raise InputError(f"{root} cannot be read ({error.strerror}): check the path.") from error
    while stack:
        for path, entry in stack[-1]:
            try:
                is_folder = entry.is_dir()
            except OSError:  # links in a circle
                is_folder = False
            if not is_folder:
                reason = why_not(entry.name, others)
                if reason is not None:
                    yield path, _no_file(entry) or reason
            elif is_hidden_folder(entry.name):
                others["hidden folders"] += 1
            else:
                try:
                    identity = _identity(entry.stat())
                    if identity in seen:
                        yield path, "it leads to a folder that is looked at already."
                        continue
                    stack.append(iter(_entries(entry.path, f"{path}/")))
                    seen.add(identity)
                    break
                except OSError as error:
                    yield path, f"this folder cannot be read ({error.strerror})."
        else:
            stack.pop()


def _entries(folder: str | Path, prefix: str) -> list[tuple[str, os.DirEntry[str]]]:
    """Path and entry of everything in a folder, in natural order."""
    with os.scandir(folder) as entries:
        named = [(natural(as_text(entry.name)), entry) for entry in entries]
    named.sort(key=lambda each: each[0])
    return [(prefix + name, entry) for (_, name), entry in named]


def _no_file(entry: os.DirEntry[str]) -> str:
    """Why an entry is no file that can be opened; empty if it is one."""
    try:
        if entry.is_file():
            return ""
        if not entry.is_symlink() or os.path.exists(entry.path):  # noqa: PTH110
            return "it is no file, but a pipe, a socket or a device."
    except OSError:
        pass
    return "it is a link that leads nowhere."


def _identity(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino


def _hash_file(file: Path) -> str:
    try:
        return atomic.sha256(file)
    except OSError:
        return "unreadable"
