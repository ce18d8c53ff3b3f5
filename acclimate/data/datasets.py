"""Images by name, from a folder, a zip or an array, as one uint8 tensor."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from acclimate.data import folders
from acclimate.data.arrays import open_images
from acclimate.data.cache import Item, Skipped, decoded
from acclimate.data.corrupted import manifest
from acclimate.data.folders import Split
from acclimate.data.published import SETS, lookup
from acclimate.data.published.found import Found, array_paths, join
from acclimate.errors import InputError, unknown_name

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
    domain: str | None = None,
    size: int | None = None,
    cache: Path | None = None,
    download: bool = False,
) -> LabelledImages:
    """Labelled images of one split, or of one domain.

    ``pacs``, ``office-home`` and ``visda`` have no published splits: either split gives the whole
    domain. Split it yourself with :func:`hold_out`.

    Args:
        data: The name of a published set (docs/data-sets.md lists them); or a folder
            ``split/class/image`` or a zip of one, where the split's folder is ``train``, or
            ``test``, ``val`` or ``validation``, and classes are in the sorted order of their
            folders' names in ``train`` where there is one, as in torchvision; or a folder that
            ``acclimate corrupt`` wrote.
        split: ``train`` or ``test``.
        root: The folder of a published set, or the folder that holds that one.
        domain: Which part of a set that has domains: ``fog/3``, corruption and severity, of those
            that end in -c and of what ``acclimate corrupt`` wrote; ``sketch`` and the like of
            ``pacs``. :func:`domains` lists them.
        size: Resize the shorter side to this many pixels (bilinear, antialiased) and crop the
            centre square. Without it all images must have one size.
        cache: Where decoded images are kept; default ``$ACCLIMATE_CACHE`` or the user's cache.
        download: Let torchvision download ``cifar10`` or ``cifar100`` into ``root`` first.

    Raises:
        InputError: the data is missing or cannot be used. A bad image among good ones is
            no error: it is listed in ``skipped``.
    """
    _check(split, size)
    name = str(data)
    if name in SETS:
        found, domain = lookup.find(name, split, root, domain, download)
    else:
        path = _existing(data, download)
        name = path.stem if path.is_file() else path.resolve().name
        found, domain = _find_in_path(path, split, domain)
    if not found.classes:
        raise InputError(f"{data} has no labels: it was made with --unlabelled.")
    usable = _usable(found.images, found.paths, size, cache)
    label_of = dict(zip(found.paths, found.labels.tolist()))
    labels = torch.tensor([label_of[path] for path in usable.paths])
    skipped = (*found.skipped, *usable.skipped)
    return LabelledImages(usable.images, labels, found.classes, name, domain, usable.paths, skipped)


def load_images(
    data: str | Path,
    split: Split | None = None,
    *,
    root: Path | None = None,
    domain: str | None = None,
    size: int | None = None,
    cache: Path | None = None,
    download: bool = False,
) -> Images:
    """All images of a folder, a zip, an array or a published set; no label is given.

    Args:
        data: A folder or a zip, searched recursively and taken in natural path order (2 before
            10); an ``.npy`` file with uint8 ``[n, height, width, 3]``; or a name, or a folder that
            ``acclimate corrupt`` wrote, as in :func:`load`.
        split: Only this split, where the data has splits. None takes everything.
        root: As in :func:`load`.
        domain: As in :func:`load`.
        size: As in :func:`load`.
        cache: As in :func:`load`.
        download: As in :func:`load`.

    Raises:
        InputError: as in :func:`load`.
    """
    _check(split, size)
    name, skipped = str(data), ()
    if name in SETS:
        wanted = lookup.splits(name) if split is None else (split,)
        parts = [lookup.find(name, each, root, domain, download)[0] for each in wanted]
        found = join(parts)
        images, paths, skipped = found.images, found.paths, found.skipped
    else:
        path = _existing(data, download)
        if manifest.is_ours(path):
            found, _ = lookup.find_corrupted(path, split or "test", domain)
            images, paths = found.images, found.paths
        else:
            _check_no_domain(path, domain)
            images, paths = _all_in_path(path, split)
    usable = _usable(images, paths, size, cache)
    return Images(usable.images, usable.paths, (*skipped, *usable.skipped))


def domains(data: str | Path, *, root: Path | None = None) -> tuple[str, ...]:
    """What :func:`load` takes as ``domain``: the domains of a set that are there.

    Args:
        data: A published set's name or a folder, as in :func:`load`.
        root: As in :func:`load`.

    Returns:
        The domains; none if the set has no domains.

    Raises:
        InputError: the set has domains, and none is there; or there is no such set or folder.
    """
    if str(data) in SETS:
        return lookup.domains(str(data), root)
    path = _existing(data, download=False)
    return manifest.read(path).domains if manifest.is_ours(path) else ()


def _check(split: str | None, size: int | None) -> None:
    if split is not None and split not in folders.SPLITS:
        raise unknown_name("split", split, folders.SPLITS)
    if size is not None and not 1 <= size <= _MAX_SIZE:
        raise InputError(f"size is {size}: give a number of pixels from 1 to {_MAX_SIZE}.")


def _existing(data: str | Path, download: bool) -> Path:
    if download:
        raise InputError(f"{str(data)!r} cannot be downloaded: only cifar10 and cifar100 can.")
    path = Path(data).expanduser()
    if str(data) and path.exists():
        return path
    if path.name and path.name == str(data) and not path.suffix:
        raise unknown_name("data set, and no such folder,", str(data), SETS)
    raise InputError(f"there is no folder or zip {str(data)!r}: check the path.")


def _check_no_domain(path: Path, domain: str | None) -> None:
    if domain is not None:
        raise InputError(
            f"{path} has no domains, for it has no readable {manifest.NAME} of acclimate corrupt: "
            f"leave {domain!r} out."
        )


def _find_in_path(path: Path, split: Split, domain: str | None) -> tuple[Found, str]:
    """A split of a folder or a zip, or a domain of what ``acclimate corrupt`` wrote."""
    if manifest.is_ours(path):
        return lookup.find_corrupted(path, split, domain)
    _check_no_domain(path, domain)
    if path.suffix.lower() == ".npy":
        raise InputError(f"{path} has no labels: give a folder split/class/image or a zip of one.")
    items, classes, class_of = folders.labelled_items(path, split)
    label_of = {name: label for label, name in enumerate(classes)}
    paths = tuple(item.path for item in items)
    labels = [label_of[class_of[each]] if each in class_of else -1 for each in paths]
    return Found(items, paths, np.asarray(labels, np.int64), classes), ""


def _all_in_path(
    path: Path, split: Split | None
) -> tuple[UInt8[np.ndarray, "n height width 3"] | Sequence[Item], tuple[str, ...]]:
    """The images of an array, a folder or a zip, with their paths."""
    if path.suffix.lower() == ".npy":
        array = open_images(path, "write it by numpy.save")
        return array, array_paths(path.name, 0, len(array))
    items = folders.items(path, split)
    return items, tuple(item.path for item in items)


def _usable(
    images: UInt8[np.ndarray, "n height width 3"] | Sequence[Item],
    paths: tuple[str, ...],
    size: int | None,
    cache: Path | None,
) -> Images:
    """The pixels of what was found, without images that cannot be used."""
    if isinstance(images, np.ndarray):
        if size is None or images.shape[1:3] == (size, size):
            return Images(_tensor(images), paths)
        images = [
            Item(path, partial(_hash_pixels, image), partial(Image.fromarray, image))
            for path, image in zip(paths, images)
        ]
    found = decoded(images, size=size, cache=cache)
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


def _part(data: LabelledImages, chosen: Int64[Tensor, " part"]) -> LabelledImages:
    paths = tuple(data.paths[i] for i in chosen.tolist()) if data.paths else ()
    return replace(data, images=data.images[chosen], labels=data.labels[chosen], paths=paths)
