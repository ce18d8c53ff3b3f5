"""The images in a folder or a zip, in order, and the splits and classes given by their paths."""

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
"""Allowed folder names of each split. The first one that exists is used."""

_MAX_TOTAL_BYTES = 2**40


def items(path: Path, split: Split | None = None) -> list[Item]:
    """List the images below a folder or in a zip, or those of one split, in natural path order.

    Raises:
        InputError: the path is neither a folder nor a readable zip, holds no image, or lacks the
            split.
    """
    all_items = _all_items(path)
    if split is None:
        return all_items
    splits, _ = _by_split(all_items)
    return splits[_split_folder(path, splits, split)]


def labelled_items(path: Path, split: Split) -> tuple[list[Item], tuple[str, ...], dict[str, str]]:
    """List a split's images, the names of all classes, and the class of each image by its path.

    Raises:
        InputError: as :func:`items`, or there are no class folders, or ``train`` lacks one of the
            classes.
    """
    splits, depth = _by_split(_all_items(path))
    chosen = splits[_split_folder(path, splits, split)]
    class_of = _classes(chosen, depth)
    if not class_of:
        raise InputError(f"{path} has no class folders in {split}: put images in {split}/CLASS/.")
    # Labels must mean the same in all splits, also in one that lacks some class.
    classes = set(_classes(splits.get("train", chosen), depth).values())
    unknown = sorted(set(class_of.values()) - classes)
    if unknown:
        raise InputError(
            f"{path} has the class folder {unknown[0]!r} in {split} but not in train: "
            "the splits must have the same classes."
        )
    checked = [item if item.path in class_of else stray(item) for item in chosen]
    return checked, tuple(sorted(classes)), class_of


def _by_split(items: Sequence[Item]) -> tuple[dict[str, list[Item]], int]:
    """Items by split folder, and the depth of these: 1 if all lie in one top folder, else 0."""
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
        f"the splits it has are {', '.join(splits) or 'none'}."
    )


def _classes(items: Sequence[Item], depth: int) -> dict[str, str]:
    """The class of each item in a folder ``split/class/``, by the item's path."""
    parts = {item.path: item.path.split("/") for item in items}
    return {path: names[depth + 1] for path, names in parts.items() if len(names) > depth + 2}


def stray(item: Item) -> Item:
    """Replace an image outside the class folders by an item that is skipped when decoded."""

    def refuse() -> Image.Image:
        raise InputError("it is in no class folder.")

    return Item(item.path, lambda: "stray", refuse)


def _all_items(path: Path) -> list[Item]:
    """List all images below a folder or in a zip, in natural path order."""
    if path.is_dir():
        items = list(_items_of_folder(path))
    elif path.suffix.lower() == ".zip":
        items = _items_of_zip(path)
    else:
        raise InputError(f"{path} is neither a folder nor a .zip: give a folder or a zip.")
    if not items:
        suffixes = ", ".join(sorted(decode.SUFFIXES))
        raise InputError(f"there is no image in {path}: names of images must end in {suffixes}.")
    return sorted(items, key=lambda item: _natural(item.path))


def _items_of_folder(path: Path) -> Iterator[Item]:
    visited = set()
    for parent, folders, names in os.walk(path, followlinks=True):
        if os.path.realpath(parent) in visited:  # a symbolic link to a parent folder
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
        raise InputError(f"{path} is not a readable zip ({error}): make it again.") from error
    # A dictionary by name: if two members have the same name, the last one is used.
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
        data = archive.read(info)  # reads at most file_size bytes and checks the CRC
    except decode.BROKEN as error:
        raise decode.damaged(error) from error
    return decode.decode(data)


def _is_image(path: str) -> bool:
    """Whether a path is that of an image, by suffix; hidden files and ``__MACOSX`` are not."""
    if os.path.splitext(path)[1].lower() not in decode.SUFFIXES:  # noqa: PTH122, much faster
        return False
    return not any((p.startswith(".") and p != ".") or p == "__MACOSX" for p in path.split("/"))


def _natural(path: str) -> list[tuple[list[str | tuple[int, str]], str]]:
    """Sort key: compares folder by folder, and numbers by value, so that 2 comes before 10."""

    def key(name: str) -> list[str | tuple[int, str]]:
        pieces = re.split("([0-9]+)", name)  # text and digits alternate, so types match
        return [
            (len(piece.lstrip("0")), piece.lstrip("0")) if i % 2 else piece
            for i, piece in enumerate(pieces)
        ]

    return [(key(name), name) for name in path.split("/")]
