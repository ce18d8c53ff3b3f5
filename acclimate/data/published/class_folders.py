"""Folders ``.../CLASS/image`` whose classes are known beforehand."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from acclimate.data import folders
from acclimate.data.published.found import Found
from acclimate.errors import InputError

_SEVERITIES = ("1", "2", "3", "4", "5")


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones.

    Raises:
        InputError: the folder cannot be listed.
    """
    try:
        found = [each.name for each in folder.iterdir() if each.is_dir()]
    except OSError as error:
        raise InputError(
            f"{folder} cannot be listed ({error.strerror}): check the path."
        ) from error
    return sorted(name for name in found if name[0] != "." and name != "__MACOSX")


def read(
    root: Path,
    below: str,
    label_of: Mapping[str, int],
    classes: tuple[str, ...],
    remedy: str,
    *,
    complete: bool = False,
) -> Found:
    """The images of ``root/below/CLASS/``; those in no class folder become ``skipped``.

    Args:
        root: The set's folder.
        below: The part of it to read, with forward slashes, or nothing.
        label_of: The label of each class folder that may be there.
        classes: The names of all labels.
        remedy: What to do if the folder cannot be used.
        complete: Each of the folders must be there.

    Raises:
        InputError: there is no such folder, no image, an empty or an unknown class folder, or
            one is missing.
    """
    folder = root / below
    names = _check_names(folder, label_of, remedy, complete)
    items = folders.items(folder)
    labels = [label_of.get(item.path.split("/")[0], -1) for item in items]
    empty = names - {item.path.split("/")[0] for item in items}
    if empty:
        raise InputError(f"{folder / min(empty)} has no image in it: {remedy}.")
    prefix = f"{below}/" if below else ""
    items = [
        replace(item if label >= 0 else folders.stray(item), path=prefix + item.path)
        for item, label in zip(items, labels)
    ]
    paths = tuple(item.path for item in items)
    return Found(items, paths, np.asarray(labels, np.int64), classes)


def _check_names(
    folder: Path, label_of: Mapping[str, int], remedy: str, complete: bool
) -> set[str]:
    """The class folders in a folder, if all of them belong there."""
    if not folder.is_dir():
        raise InputError(f"the folder {folder} is missing: {remedy}.")
    names = subfolders(folder)
    if not names:
        raise InputError(f"{folder} has no class folders: {remedy}.")
    for name in names:
        if name not in label_of:
            raise InputError(
                f"{folder} has the class folder {name!r}, which is none of the {len(label_of)} "
                f"that belong there: remove it, or {remedy}."
            )
    if complete and len(names) < len(label_of):
        missing = min(set(label_of) - set(names))
        raise InputError(f"{folder} lacks the class folder {missing!r}: {remedy}.")
    return set(names)


def severities(root: Path, groups: tuple[str, ...] = ()) -> dict[str, str]:
    """The folder of each ``CORRUPTION/SEVERITY`` below a root, by that name.

    Args:
        root: Holds ``CORRUPTION/SEVERITY/CLASS/``, or ``GROUP/CORRUPTION/SEVERITY/CLASS/``.
        groups: What the groups may be called.
    """
    found = {}
    for name in subfolders(root):
        if name in groups:
            below = severities(root / name)
            found |= {domain: f"{name}/{folder}" for domain, folder in below.items()}
        else:
            there = [each for each in subfolders(root / name) if each in _SEVERITIES]
            found |= {f"{name}/{severity}": f"{name}/{severity}" for severity in there}
    return found
