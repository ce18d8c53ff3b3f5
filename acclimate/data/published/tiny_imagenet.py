"""TinyImageNet in its own layout, as a folder or in the zip, and TinyImageNet-C.

Labels are in the sorted order of the WordNet ids, which are also the classes' names, so that the
two sets count alike. The published test images have no labels; ``test`` is ``val``.
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
from acclimate.data.published.found import Found, Place
from acclimate.errors import InputError

_CLASSES = 200
_LIST = "wnids.txt"
_ANNOTATIONS = "val/val_annotations.txt"


def read(place: Place, split: Split, domain: str) -> Found:
    """The images of ``train/WNID/images`` or of ``val/images``.

    Raises:
        InputError: a list is missing or damaged, or images and classes do not fit it.
    """
    top = _top(place)
    classes = _class_list(place, top)
    images = _images(place, top, "train" if split == "train" else "val")
    return (_train if split == "train" else _val)(place, top, images, classes)


def tiny_imagenet_c(place: Place, split: Split, domain: str) -> Found:
    """One corruption at one severity of TinyImageNet-C.

    The set comes without a list of its classes, so all 200 folders must be there, unless
    TinyImageNet's ``wnids.txt`` lies beside them.
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
    """``CORRUPTION/SEVERITY`` for each folder that is there."""
    return sorted(class_folders.severities(place.root))


def _train(place: Place, top: str, images: Sequence[Item], classes: tuple[str, ...]) -> Found:
    owners = [item.path.removeprefix(f"{top}train/").split("/")[0] for item in images]
    where = f"{place.root}/{top}"
    label_of = {name: label for label, name in enumerate(classes)}
    for name in owners:
        if name not in label_of:
            raise InputError(
                f"{where}train has the class folder {name!r}, which {_LIST} does not list: "
                f"remove it, or {place.remedy}."
            )
    if missing := sorted(set(classes) - set(owners)):
        raise InputError(f"{where}train has no image of the class {missing[0]}: {place.remedy}.")
    return _found(images, [label_of[name] for name in owners], classes)


def _val(place: Place, top: str, images: Sequence[Item], classes: tuple[str, ...]) -> Found:
    class_of = _annotations(place, top, classes)
    names = [item.path.removeprefix(f"{top}val/images/") for item in images]
    for name in names:
        if name not in class_of:
            raise InputError(
                f"{_ANNOTATIONS} in {place.root} names no class for the image {name!r}: "
                f"{place.remedy}."
            )
    label_of = {name: label for label, name in enumerate(classes)}
    absent = sorted(set(class_of) - set(names))
    skipped = ()
    if absent:  # A part of the set is of use, but nobody should take it for the whole.
        reason = f"{len(absent)} of the images that it names are not there, such as {absent[0]}."
        skipped = (Skipped(f"{top}{_ANNOTATIONS}", reason),)
    return _found(images, [label_of[class_of[name]] for name in names], classes, skipped)


def _found(
    images: Sequence[Item],
    labels: Sequence[int],
    classes: tuple[str, ...],
    skipped: tuple[Skipped, ...] = (),
) -> Found:
    paths = tuple(item.path for item in images)
    return Found(images, paths, np.asarray(labels, np.int64), classes, skipped)


def _class_list(place: Place, top: str) -> tuple[str, ...]:
    names = _text(place, top, _LIST).split()
    for name in names:
        if not re.fullmatch(r"n\d{8}", name) or names.count(name) > 1:
            raise InputError(
                f"{_LIST} in {place.root} lists {name!r}, which is no WordNet id or is there "
                f"twice: {place.remedy}."
            )
    if not names:
        raise InputError(f"{_LIST} in {place.root} is empty: {place.remedy}.")
    return tuple(sorted(names))


def _annotations(place: Place, top: str, classes: tuple[str, ...]) -> dict[str, str]:
    """The class of each validation image by its file's name."""
    known, class_of = set(classes), {}
    for number, line in enumerate(_text(place, top, _ANNOTATIONS).splitlines(), 1):
        name, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0]
        # A name is only ever compared with those of images in the folder, never opened.
        if wnid not in known or name in class_of or not re.fullmatch(r"\w[\w.-]*", name):
            raise InputError(
                f"{_ANNOTATIONS} in {place.root} is damaged at line {number}, {line[:60]!r}: each "
                f"line must give the name of a file, once, and a class of {_LIST}; "
                f"{place.remedy}."
            )
        class_of[name] = wnid
    return class_of


def _images(place: Place, top: str, folder: str) -> list[Item]:
    """The images of a split, with paths relative to the root."""
    if place.root.is_dir():
        where = place.root / folder
        if not where.is_dir():
            raise InputError(f"the folder {where} is missing: {place.remedy}.")
        found = folders.items(where)
        return [replace(item, path=f"{folder}/{item.path}") for item in found]
    found = folders.items(place.root)
    found = [item for item in found if item.path.startswith(f"{top}{folder}/")]
    if not found:
        raise InputError(f"{place.root} has no image in {top}{folder}: {place.remedy}.")
    return found


def _top(place: Place) -> str:
    """What the paths in the zip begin with; nothing for a folder."""
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
    """A text file of the set."""
    try:
        if place.root.is_dir():
            data = (place.root / name).read_bytes()
        else:
            with zipfile.ZipFile(place.root) as archive:
                decode.check_file_size(archive.getinfo(top + name).file_size)
                data = archive.read(top + name)
        return data.decode("utf-8")
    except (FileNotFoundError, KeyError) as error:
        raise InputError(f"{name} is missing in {place.root}: {place.remedy}.") from error
    except decode.BROKEN as error:
        raise InputError(f"{name} in {place.root} cannot be read: {place.remedy}.") from error
