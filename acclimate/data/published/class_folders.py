"""Folders ``.../CLASS/image`` whose classes are known in advance."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from acclimate.data import folders
from acclimate.data.published.listing import Listing
from acclimate.errors import InputError
from acclimate.storage.names import as_text

_SEVERITIES = ("1", "2", "3", "4", "5")


def subfolders(folder: Path) -> list[str]:
    """The sorted names of the folders in a folder, without hidden ones.

    Raises:
        InputError: the folder cannot be listed.
    """
    try:
        names = [each.name for each in folder.iterdir() if each.is_dir()]
    except OSError as error:
        raise InputError(
            f"{folder} cannot be listed ({error.strerror}): check the path."
        ) from error
    return sorted(name for name in names if name[0] != "." and name != "__MACOSX")


def read(
    root: Path,
    below: str,
    label_of: Mapping[str, int],
    classes: tuple[str, ...],
    remedy: str,
    *,
    complete: bool = False,
) -> Listing:
    """List the images of ``root/below/CLASS/``. Images in no class folder will be skipped.

    Args:
        root: The data set's folder.
        below: Path below the root, with forward slashes; may be empty.
        label_of: Label of each allowed class folder.
        classes: Names of all classes.
        remedy: What to do if the folder cannot be used; the end of the error message.
        complete: Whether all class folders must exist.

    Raises:
        InputError: the folder does not exist or holds no image, or a class folder is unknown,
            empty or missing.
    """
    folder = root / below
    names = _check_names(folder, label_of, remedy, complete)
    items = folders.items(folder)
    labels = [label_of.get(item.path.split("/")[0], -1) for item in items]
    empty = names - {item.path.split("/")[0] for item in items if not item.left_out}
    if empty:
        raise InputError(f"{folder / min(empty)} has no image in it: {remedy}.")
    prefix = f"{below}/" if below else ""
    items = [
        replace(item if label >= 0 else folders.stray(item), path=prefix + item.path)
        for item, label in zip(items, labels)
    ]
    paths = tuple(item.path for item in items)
    return Listing(items, paths, np.asarray(labels, np.int64), classes)


def _check_names(
    folder: Path, label_of: Mapping[str, int], remedy: str, complete: bool
) -> set[str]:
    """The class folders in a folder; raises an error if one is unknown or missing."""
    if not folder.is_dir():
        raise InputError(f"the folder {folder} is missing: {remedy}.")
    names = [as_text(name) for name in subfolders(folder)]
    if not names:
        raise InputError(f"{folder} has no class folders: {remedy}.")
    for name in names:
        if name not in label_of:
            raise InputError(
                f"{folder} has the class folder {name!r}, which is none of the {len(label_of)} "
                f"expected classes: remove it, or {remedy}."
            )
    if complete and len(names) < len(label_of):
        missing = min(set(label_of) - set(names))
        raise InputError(f"{folder} lacks the class folder {missing!r}: {remedy}.")
    return set(names)


def severities(root: Path, groups: tuple[str, ...] = ()) -> dict[str, str]:
    """Find the folders of all domains ``CORRUPTION/SEVERITY`` below a root.

    Args:
        root: Folder of ``CORRUPTION/SEVERITY/CLASS/`` or ``GROUP/CORRUPTION/SEVERITY/CLASS/``.
        groups: Allowed names of the groups.

    Returns:
        The folder of each domain, relative to the root, by the domain's name.
    """
    folder_of = {}
    for name in subfolders(root):
        if name in groups:
            below = severities(root / name)
            folder_of |= {domain: f"{name}/{folder}" for domain, folder in below.items()}
        else:
            present = [each for each in subfolders(root / name) if each in _SEVERITIES]
            folder_of |= {f"{name}/{severity}": f"{name}/{severity}" for severity in present}
    return folder_of
