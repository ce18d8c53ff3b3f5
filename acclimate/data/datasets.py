"""Images by name, from a folder, a zip or an array, as one uint8 tensor."""

import hashlib
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from acclimate.data import fashion_mnist_mini, folders
from acclimate.data.cache import Item, Skipped, decoded
from acclimate.data.folders import Split
from acclimate.errors import InputError, unknown_name

NAMES = ("fashion-mnist-mini", "cifar10", "cifar100")

_MAX_SIZE = 4096


@dataclass(frozen=True)
class LabelledImages:
    """Images with their classes. ``images`` may be a read-only memory map: copy, then change."""

    images: UInt8[Tensor, "n 3 height width"]
    """0..255, not normalised, in channels_last layout."""
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]
    """The name of each label."""
    name: str
    domain: str = ""
    """Which part of a set with domains, e.g. ``"fog/3"`` or ``"sketch"``."""
    paths: tuple[str, ...] = ()
    """Where each image comes from, relative to the folder or archive."""
    skipped: tuple[Skipped, ...] = ()
    """Images that could not be used, and why."""


@dataclass(frozen=True)
class Images:
    """Images without labels. ``images`` may be a read-only memory map: copy, then change."""

    images: UInt8[Tensor, "n 3 height width"]
    """0..255, not normalised, in channels_last layout."""
    paths: tuple[str, ...]
    """Where each image comes from, relative to the folder or archive."""
    skipped: tuple[Skipped, ...] = ()
    """Images that could not be used, and why."""


def load(
    data: str | Path,
    split: Split,
    *,
    root: Path | None = None,
    size: int | None = None,
    cache: Path | None = None,
) -> LabelledImages:
    """Labelled images of one split.

    Args:
        data: ``fashion-mnist-mini`` (embedded), ``cifar10`` or ``cifar100`` in torchvision's
            layout, or a folder ``split/class/image`` or a zip of one, where the split's folder
            is ``train``, or ``test``, ``val`` or ``validation``. Classes are in the sorted order
            of their folders' names in ``train`` where there is one, as in torchvision.
        split: ``train`` or ``test``.
        root: Where torchvision's files lie.
        size: Resize the shorter side to this many pixels (bilinear, antialiased) and crop the
            centre square. Without it all images must have one size.
        cache: Where decoded images are kept; default ``$ACCLIMATE_CACHE`` or the user's cache.

    Raises:
        InputError: the data is missing or cannot be used. A bad image among good ones is
            no error: it is listed in ``skipped``.
    """
    _check(split, size)
    if str(data) in NAMES:
        array, labels, classes = _read_named(str(data), split, root)
        found = _from_array(array, str(data), size, cache)
        labels = torch.from_numpy(labels)
        return LabelledImages(found.images, labels, classes, str(data), paths=found.paths)
    path = _existing(data)
    if path.suffix.lower() == ".npy":
        raise InputError(f"{path} has no labels: give a folder split/class/image or a zip of one.")
    items, classes, class_of = folders.labelled_items(path, split)
    found = decoded(items, size=size, cache=cache)
    label_of = {name: label for label, name in enumerate(classes)}
    labels = torch.tensor([label_of[class_of[file]] for file in found.paths])
    name = path.stem if path.is_file() else path.resolve().name
    images = _tensor(found.images)
    return LabelledImages(images, labels, classes, name, paths=found.paths, skipped=found.skipped)


def load_images(
    data: str | Path,
    split: Split | None = None,
    *,
    root: Path | None = None,
    size: int | None = None,
    cache: Path | None = None,
) -> Images:
    """All images of a folder, a zip, an array or a named set; no label is looked at.

    Args:
        data: A folder or a zip, searched recursively and taken in natural path order (2 before
            10); an ``.npy`` file with uint8 ``[n, height, width, 3]``; or a name as in
            :func:`load`.
        split: Only this split, where the data has splits. None takes everything.
        root: Where torchvision's files lie.
        size: As in :func:`load`.
        cache: As in :func:`load`.

    Raises:
        InputError: as in :func:`load`.
    """
    _check(split, size)
    if str(data) in NAMES:
        splits: tuple[Split, ...] = ("train", "test") if split is None else (split,)
        array = np.concatenate([_read_named(str(data), each, root)[0] for each in splits])
        return _from_array(array, str(data), size, cache)
    path = _existing(data)
    if path.suffix.lower() == ".npy":
        return _from_array(_open_npy(path), path.name, size, cache)
    found = decoded(folders.items(path, split), size=size, cache=cache)
    return Images(_tensor(found.images), found.paths, found.skipped)


def _check(split: str | None, size: int | None) -> None:
    if split is not None and split not in folders.SPLITS:
        raise unknown_name("split", split, folders.SPLITS)
    if size is not None and not 1 <= size <= _MAX_SIZE:
        raise InputError(f"size is {size}: give a number of pixels from 1 to {_MAX_SIZE}.")


def _existing(data: str | Path) -> Path:
    path = Path(data).expanduser()
    if str(data) and path.exists():
        return path
    if path.name and path.name == str(data) and not path.suffix:
        raise unknown_name("data set, and no such folder,", str(data), NAMES)
    raise InputError(f"there is no folder or zip {str(data)!r}: check the path.")


def _read_named(
    name: str, split: Split, root: Path | None
) -> tuple[UInt8[np.ndarray, "n height width 3"], Int64[np.ndarray, " n"], tuple[str, ...]]:
    if name == "fashion-mnist-mini":
        images, labels, classes = fashion_mnist_mini.read(split)
        images = np.asarray(images).transpose(0, 2, 3, 1)
        return images, np.asarray(labels, np.int64), tuple(classes)
    from torchvision import datasets  # seconds to import, and few calls need it

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    download = f"torchvision.datasets.{kind.__name__}(root, download=True)"
    if root is None:
        raise InputError(f"{name} needs --root, the folder that {download} filled.")
    try:
        # The files are pickles: torchvision opens them only if their MD5 is the official one.
        found = kind(root, train=split == "train", download=False)
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"{name} is not in {root}, or damaged: get it by {download} in Python."
        ) from error
    return found.data, np.asarray(found.targets, np.int64), tuple(found.classes)


def _open_npy(path: Path) -> UInt8[np.ndarray, "n height width 3"]:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is not a readable .npy file ({error}).") from error
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape:
        raise InputError(
            f"{path} holds {array.dtype} {list(array.shape)}: "
            "images must be uint8 [n, height, width, 3]."
        )
    return array


def _from_array(
    array: UInt8[np.ndarray, "n height width 3"], name: str, size: int | None, cache: Path | None
) -> Images:
    if size is None or array.shape[1:3] == (size, size):
        return Images(_tensor(array), tuple(f"{name}[{i}]" for i in range(len(array))))
    items = [
        Item(f"{name}[{i}]", partial(_hash_pixels, image), partial(Image.fromarray, image))
        for i, image in enumerate(array)
    ]
    found = decoded(items, size=size, cache=cache)
    return Images(_tensor(found.images), found.paths, found.skipped)


def _hash_pixels(image: UInt8[np.ndarray, "height width 3"]) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def _tensor(array: UInt8[np.ndarray, "n height width 3"]) -> UInt8[Tensor, "n 3 height width"]:
    with warnings.catch_warnings():
        # Not writable on purpose: a private writable map of a large set can be refused for lack
        # of memory, and a shared one would let a slip change the cache.
        warnings.filterwarnings("ignore", message=".*not writable", category=UserWarning)
        return torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2)


def hold_out(data: LabelledImages, every: int = 20) -> tuple[LabelledImages, LabelledImages]:
    """Split off every so many-th image, to choose settings on: (the rest, those).

    Evenly spaced, so that a set sorted by class stays balanced.

    Raises:
        InputError: one of the two would be empty.
    """
    if not 2 <= every <= len(data.images):
        raise InputError(
            f"every must lie in 2..{len(data.images)} to hold out some images and keep others, "
            f"not {every}."
        )
    chosen = torch.arange(len(data.images)) % every == every - 1
    rest, held = (_part(data, where.nonzero()[:, 0]) for where in (~chosen, chosen))
    return rest, held


def subset(data: LabelledImages, count: int | None) -> LabelledImages:
    """``count`` images, evenly spaced, so that a set sorted by class stays balanced."""
    if count is None or count >= len(data.images):
        return data
    return _part(data, torch.arange(count) * len(data.images) // count)


def _part(data: LabelledImages, chosen: Int64[Tensor, "part"]) -> LabelledImages:
    paths = tuple(data.paths[i] for i in chosen.tolist()) if data.paths else ()
    return replace(data, images=data.images[chosen], labels=data.labels[chosen], paths=paths)
