"""The images in a folder or a zip, in order, and the splits and classes given by their paths."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from acclimate.data import decode, survey
from acclimate.data.archive import of_zip
from acclimate.data.cache import Item
from acclimate.data.survey import Survey
from acclimate.errors import InputError

Split = Literal["train", "test"]

SPLITS = {"train": ("train",), "test": ("test", "val", "validation")}
"""Allowed folder names of each split. The first one that exists is used."""


def items(path: Path, split: Split | None = None) -> list[Item]:
    """List the images below a folder or in a zip, or those of one split, in natural path order.

    Files that may be images but are not read are among them; opening one gives the reason.

    Raises:
        InputError: the path is neither a folder nor a readable zip, holds no image, or lacks the
            split.
    """
    all_items = [*look_through(path).items]
    if split is None:
        return all_items
    splits, _ = _by_split(all_items)
    return splits[_split_folder(path, splits, split, all_items)]


def labelled_items(path: Path, split: Split) -> tuple[list[Item], tuple[str, ...], dict[str, str]]:
    """List a split's images, the names of all classes, and the class of each image by its path.

    Raises:
        InputError: as ``items``, or there are no class folders, or ``train`` lacks one of the
            classes.
    """
    all_items = [*look_through(path).items]
    splits, depth = _by_split(all_items)
    chosen = splits[_split_folder(path, splits, split, all_items)]
    class_of = _classes(chosen, depth)
    if not class_of:
        raise InputError(
            f"{path} has no class folders in {split}: put images in {split}/CLASS/"
            f"{_hint(path, chosen)}"
        )
    # Labels must mean the same in all splits, also in one that lacks some class.
    classes = set(_classes(splits.get("train", chosen), depth).values())
    unknown = sorted(set(class_of.values()) - classes)
    if unknown:
        raise InputError(
            f"{path} has the class folder {unknown[0]!r} in {split} but not in train: "
            f"the splits must have the same classes{_hint(path, chosen)}"
        )
    checked = [item if item.path in class_of else stray(item) for item in chosen]
    return checked, tuple(sorted(classes)), class_of


def _by_split(items: Sequence[Item]) -> tuple[dict[str, list[Item]], int]:
    """Items by split folder, and the depth of these: 1 if all lie in one top folder, else 0."""
    known = {name for names in SPLITS.values() for name in names}
    tops = {item.path.split("/")[0] for item in items if not item.left_out}
    depth = int(len(tops) == 1 and not tops & known)
    splits: dict[str, list[Item]] = {}
    for item in items:
        parts = item.path.split("/")
        if len(parts) > depth + 1 and parts[depth] in known:
            splits.setdefault(parts[depth], []).append(item)
    with_images = {name for name, some in splits.items() if not all(i.left_out for i in some)}
    return {name: splits[name] for name in splits if name in with_images}, depth


def _split_folder(
    path: Path, splits: dict[str, list[Item]], split: Split, items: Sequence[Item]
) -> str:
    for name in SPLITS[split]:
        if name in splits:
            return name
    raise InputError(
        f"{path} has no images in a folder {' or '.join(SPLITS[split])}: "
        f"the splits it has are {', '.join(splits) or 'none'}{_hint(path, items)}"
    )


def _classes(items: Sequence[Item], depth: int) -> dict[str, str]:
    """The class of each image in a folder ``split/class/``, by the image's path."""
    parts = {item.path: item.path.split("/") for item in items if not item.left_out}
    return {path: names[depth + 1] for path, names in parts.items() if len(names) > depth + 2}


def stray(item: Item) -> Item:
    """Replace an image outside the class folders by an item that is skipped when decoded."""
    return item if item.left_out else survey.refused(item.path, "it is in no class folder.")


def look_through(path: Path) -> Survey:
    """What lies in a folder or a zip.

    ```python
    found = look_through(Path("photos"))
    print(len(found.items), found.left_out, found.others)
    ```

    Raises:
        InputError: the path is neither a folder nor a readable zip, or holds no image.
    """
    if path.is_dir():
        found = survey.of_folder(path)
    elif path.suffix.lower() == ".zip":
        found = of_zip(path)
    else:
        raise InputError(f"{path} is neither a folder nor a .zip: give a folder or a zip.")
    if not found.items:
        suffixes = ", ".join(sorted(decode.SUFFIXES))
        raise InputError(f"there is no image in {path}: names of images must end in {suffixes}.")
    return found


def _hint(path: Path, items: Sequence[Item]) -> str:
    """The end of an error message, with a hint if this looks like ImageNet or a part of it."""
    for item in items[:1000]:
        if match := re.match(r"(.*?/)??((train|val|test|validation)/)?n[0-9]{8}/", item.path):
            root = path / (match[1] or "")
            return f"; if this is ImageNet or a part of it, give --data imagenet --root {root}."
        if re.search("ILSVRC2012_val_[0-9]{8}", item.path):
            return (
                "; if these are ImageNet's validation images, sort them into class folders "
                "val/n01440764 and so on, and give --data imagenet."
            )
    return "."
