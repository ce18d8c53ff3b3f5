"""TinyImageNet in its published layout, as a folder or zip, and TinyImageNet-C.

Labels of both data sets are in the sorted order of the WordNet ids, which are also the classes'
names. The published test images have no labels, so ``test`` is ``val``.
"""

import re
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from acclimate.data import decode, folders
from acclimate.data.cache import Item, Skipped
from acclimate.data.folders import Split
from acclimate.data.published import class_folders
from acclimate.data.published.listing import Listing, Place
from acclimate.errors import InputError

_CLASSES = 200
_LIST = "wnids.txt"
_ANNOTATIONS = "val/val_annotations.txt"


def read(place: Place, split: Split, domain: str) -> Listing:
    """List the images of ``train/WNID/images`` or of ``val/images``.

    Raises:
        InputError: the list of classes or of annotations is missing or damaged, or does not match
            the images.
    """
    top = _top(place)
    classes = _class_list(place, top)
    images = _images(place, top, "train" if split == "train" else "val")
    return (_train if split == "train" else _val)(place, top, images, classes)


def tiny_imagenet_c(place: Place, split: Split, domain: str) -> Listing:
    """One corruption at one severity of TinyImageNet-C.

    The data set comes without a list of its classes, so all 200 class folders must exist, unless
    TinyImageNet's ``wnids.txt`` is in the root.
    """
    below = class_folders.severities(place.root)[domain]
    if (place.root / _LIST).is_file():
        classes = _class_list(place, "")
    else:
        classes = tuple(class_folders.subfolders(place.root / below))
        if len(classes) != _CLASSES:
            raise InputError(
                f"{place.root / below} has {len(classes)} class folders, but {place.name} has "
                f"{_CLASSES} classes: put TinyImageNet's {_LIST} into {place.root}, or "
                f"{place.remedy}."
            )
    label_of = {name: label for label, name in enumerate(classes)}
    return class_folders.read(place.root, below, label_of, classes, place.remedy, complete=True)


def tiny_imagenet_c_domains(place: Place) -> list[str]:
    """``CORRUPTION/SEVERITY`` for each folder that exists."""
    return sorted(class_folders.severities(place.root))


def _train(place: Place, top: str, images: Sequence[Item], classes: tuple[str, ...]) -> Listing:
    class_names = [item.path.removeprefix(f"{top}train/").split("/")[0] for item in images]
    where = f"{place.root}/{top}"
    label_of = {name: label for label, name in enumerate(classes)}
    for name in class_names:
        if name not in label_of:
            raise InputError(
                f"{where}train has the class folder {name!r}, which {_LIST} does not list: "
                f"remove it, or {place.remedy}."
            )
    if missing := sorted(set(classes) - set(class_names)):
        raise InputError(f"{where}train has no image of the class {missing[0]}: {place.remedy}.")
    return _listing(images, [label_of[name] for name in class_names], classes)


def _val(place: Place, top: str, images: Sequence[Item], classes: tuple[str, ...]) -> Listing:
    class_of = _annotations(place, top, classes)
    names = [item.path.removeprefix(f"{top}val/images/") for item in images]
    for name in names:
        if name not in class_of:
            raise InputError(
                f"{_ANNOTATIONS} in {place.root} names no class for the image {name!r}: "
                f"{place.remedy}."
            )
    label_of = {name: label for label, name in enumerate(classes)}
    missing = sorted(set(class_of) - set(names))
    skipped = ()
    if missing:  # A part of the data set can be used, but the user must know that it is a part.
        reason = f"{len(missing)} of the images that it lists are missing, such as {missing[0]}."
        skipped = (Skipped(f"{top}{_ANNOTATIONS}", reason),)
    return _listing(images, [label_of[class_of[name]] for name in names], classes, skipped)


def _listing(
    images: Sequence[Item],
    labels: Sequence[int],
    classes: tuple[str, ...],
    skipped: tuple[Skipped, ...] = (),
) -> Listing:
    paths = tuple(item.path for item in images)
    return Listing(images, paths, np.asarray(labels, np.int64), classes, skipped)


def _class_list(place: Place, top: str) -> tuple[str, ...]:
    names = _text(place, top, _LIST).split()
    for name in names:
        if not re.fullmatch(r"n\d{8}", name) or names.count(name) > 1:
            raise InputError(
                f"{_LIST} in {place.root} lists {name!r}, which is no WordNet id or is listed "
                f"twice: {place.remedy}."
            )
    if not names:
        raise InputError(f"{_LIST} in {place.root} is empty: {place.remedy}.")
    return tuple(sorted(names))


def _annotations(place: Place, top: str, classes: tuple[str, ...]) -> dict[str, str]:
    """The class of each validation image, by file name."""
    known, class_of = set(classes), {}
    for number, line in enumerate(_text(place, top, _ANNOTATIONS).splitlines(), 1):
        name, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0]
        # Names are only compared with those of files in the folder; they are never opened.
        if wnid not in known or name in class_of or not re.fullmatch(r"\w[\w.-]*", name):
            raise InputError(
                f"{_ANNOTATIONS} in {place.root} is damaged at line {number}, {line[:60]!r}: each "
                f"line must give a file name that no other line has, and a class of {_LIST}; "
                f"{place.remedy}."
            )
        class_of[name] = wnid
    return class_of


def _images(place: Place, top: str, folder: str) -> list[Item]:
    """List the images of a split, with paths relative to the root."""
    if place.root.is_dir():
        where = place.root / folder
        if not where.is_dir():
            raise InputError(f"the folder {where} is missing: {place.remedy}.")
        return [replace(item, path=f"{folder}/{item.path}") for item in folders.items(where)]
    items = folders.items(place.root)
    items = [item for item in items if item.path.startswith(f"{top}{folder}/")]
    if not items:
        raise InputError(f"{place.root} has no image in {top}{folder}: {place.remedy}.")
    return items


def _top(place: Place) -> str:
    """The prefix of all paths in the zip; empty for a folder."""
    if place.root.is_dir():
        return ""
    try:
        with zipfile.ZipFile(place.root) as archive:
            names = [name for name in archive.namelist() if Path(name).name == _LIST]
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InputError(
            f"{place.root} is not a readable zip ({error}): {place.remedy}."
        ) from error
    if not names:
        raise InputError(f"{_LIST} is missing in {place.root}: {place.remedy}.")
    return min(names, key=len).removesuffix(_LIST)


def _text(place: Place, top: str, name: str) -> str:
    """Read a text file of the data set."""
    try:
        if place.root.is_dir():
            data = (place.root / name).read_bytes()
        else:
            with zipfile.ZipFile(place.root) as archive:
                decode.check_file_size(archive.getinfo(top + name).file_size)
                data = archive.read(top + name)
        return data.decode("utf-8-sig")
    except (FileNotFoundError, KeyError) as error:
        raise InputError(f"{name} is missing in {place.root}: {place.remedy}.") from error
    except decode.BROKEN as error:
        raise InputError(f"{name} in {place.root} cannot be read: {place.remedy}.") from error
