"""The images in a folder or a zip, in order, and the splits and classes their paths tell."""

import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from PIL import Image

from acclimate.data import decode
from acclimate.data.cache import Item
from acclimate.errors import InputError
from acclimate.storage import atomic

Split = Literal["train", "test"]

SPLITS = {"train": ("train",), "test": ("test", "val", "validation")}
"""The names that a split's folder may have, the first that is there counts."""

_MAX_TOTAL_BYTES = 2**40


def items(path: Path, split: Split | None = None) -> list[Item]:
    """All images below a folder or in a zip, or those of one split, in natural path order.

    Raises:
        InputError: neither a folder nor a readable zip, no image in it, or no such split.
    """
    found = _all_items(path)
    if split is None:
        return found
    splits, _ = _by_split(found)
    return splits[_split_folder(path, splits, split)]


def labelled_items(path: Path, split: Split) -> tuple[list[Item], tuple[str, ...], dict[str, str]]:
    """A split's images, the names of all classes, and the class of each image by its path.

    Raises:
        InputError: as :func:`items`; or no class folders; or a class that ``train`` lacks.
    """
    splits, depth = _by_split(_all_items(path))
    chosen = splits[_split_folder(path, splits, split)]
    class_of = _classes(chosen, depth)
    if not class_of:
        raise InputError(f"{path} has no class folders in {split}: put images in {split}/CLASS/.")
    # All splits must count the classes alike, also one that has no image of some class.
    classes = set(_classes(splits.get("train", chosen), depth).values())
    unknown = sorted(set(class_of.values()) - classes)
    if unknown:
        raise InputError(
            f"{path} has the class folder {unknown[0]!r} in {split} but not in train: "
            "the splits must have the same classes."
        )
    placed = [item if item.path in class_of else stray(item) for item in chosen]
    return placed, tuple(sorted(classes)), class_of


def _by_split(items: Sequence[Item]) -> tuple[dict[str, list[Item]], int]:
    """Items by the folder of their split, and how deep it lies: 1 below a single top folder."""
    known = {name for names in SPLITS.values() for name in names}
    tops = {item.path.split("/")[0] for item in items}
    depth = int(len(tops) == 1 and not tops & known)
    splits: dict[str, list[Item]] = {}
    for item in items:
        parts = item.path.split("/")
        if len(parts) > depth + 1 and parts[depth] in known:
            splits.setdefault(parts[depth], []).append(item)
    return splits, depth


def _split_folder(path: Path, splits: dict[str, list[Item]], split: Split) -> str:
    for name in SPLITS[split]:
        if name in splits:
            return name
    raise InputError(
        f"{path} has no images in a folder {' or '.join(SPLITS[split])}: "
        f"of the splits it has {', '.join(splits) or 'none'}."
    )


def _classes(items: Sequence[Item], depth: int) -> dict[str, str]:
    """The class of each item that lies in ``split/class/``, by its path."""
    parts = {item.path: item.path.split("/") for item in items}
    return {path: names[depth + 1] for path, names in parts.items() if len(names) > depth + 2}


def stray(item: Item) -> Item:
    """An image beside the class folders, made one that is skipped."""

    def refuse() -> Image.Image:
        raise InputError("it lies in no class folder.")

    return Item(item.path, lambda: "stray", refuse)


def _all_items(path: Path) -> list[Item]:
    """All images below a folder or in a zip, in natural order."""
    if path.is_dir():
        items = list(_items_of_folder(path))
    elif path.suffix.lower() == ".zip":
        items = _items_of_zip(path)
    else:
        raise InputError(f"{path} is neither a folder nor a .zip: give one of these.")
    if not items:
        suffixes = ", ".join(sorted(decode.SUFFIXES))
        raise InputError(f"there is no image in {path}: their names must end in {suffixes}.")
    return sorted(items, key=lambda item: _natural(item.path))


def _items_of_folder(path: Path) -> Iterator[Item]:
    visited = set()
    for parent, folders, names in os.walk(path, followlinks=True):
        if os.path.realpath(parent) in visited:  # a link that leads back up
            folders.clear()
            continue
        visited.add(os.path.realpath(parent))
        for name in names:
            file = Path(parent, name)
            relative = file.relative_to(path).as_posix()
            if _is_image(relative) and file.is_file():
                yield Item(relative, partial(_hash_file, file), partial(decode.decode, file))


def _hash_file(file: Path) -> str:
    try:
        return atomic.sha256(file)
    except OSError:
        return "unreadable"


def _items_of_zip(path: Path) -> list[Item]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable zip ({error}).") from error
    # By name, because of two members with one name the last counts.
    members = {info.filename: info for info in archive.infolist() if _is_image(info.filename)}
    total = sum(info.file_size for info in members.values())
    if total > _MAX_TOTAL_BYTES:
        raise InputError(f"the images in {path} would unpack to {total / 2**40:.1f} TiB: unzip it.")
    return [
        Item(name, lambda info=info: f"{info.file_size} {info.CRC}", partial(_open, archive, info))
        for name, info in members.items()
    ]


def _open(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Image.Image:
    decode.check_file_size(info.file_size)
    try:
        data = archive.read(info)  # never more than file_size, and the CRC is checked
    except decode.BROKEN as error:
        raise decode.damaged(error) from error
    return decode.decode(data)


def _is_image(path: str) -> bool:
    """By the name alone; hidden files and what macOS adds to a zip are none."""
    if os.path.splitext(path)[1].lower() not in decode.SUFFIXES:  # noqa: PTH122, much faster
        return False
    return not any((p.startswith(".") and p != ".") or p == "__MACOSX" for p in path.split("/"))


def _natural(path: str) -> list[tuple[list[str | tuple[int, str]], str]]:
    """A key that sorts folder by folder, with 2 before 10."""

    def key(name: str) -> list[str | tuple[int, str]]:
        pieces = re.split("([0-9]+)", name)  # text and digits in turn, so like meets like
        return [
            (len(piece.lstrip("0")), piece.lstrip("0")) if i % 2 else piece
            for i, piece in enumerate(pieces)
        ]

    return [(key(name), name) for name in path.split("/")]
