"""Load images from a named data set, a folder, a zip or an array as one uint8 tensor."""

import hashlib
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from acclimate.data import folders
from acclimate.data.arrays import open_images
from acclimate.data.cache import Item, decoded
from acclimate.data.corrupted import manifest
from acclimate.data.folders import Split
from acclimate.data.images import Images, LabelledImages
from acclimate.data.published import SETS, lookup
from acclimate.data.published.listing import Listing, array_paths, join
from acclimate.errors import InputError, unknown_name
from acclimate.preprocessing import Preprocessing
from acclimate.resizing import Side, both

_MAX_SIZE = 4096


def load(
    data: str | Path,
    split: Split,
    *,
    root: Path | None = None,
    domain: str | None = None,
    size: Side | Preprocessing | None = None,
    cache: Path | None = None,
    download: bool = False,
) -> LabelledImages:
    """Load labelled images: a split, or a domain, of a data set.

    ```python
    test = load("fashion-mnist-mini", "test")
    own = load("pets.zip", "train", size=64)
    foggy = load("cifar10-c", "test", root="data", domain="fog/3")
    ```

    ``pacs``, ``office-home`` and ``visda`` have no published splits: either split gives the whole
    domain. Split it with ``hold_out``.

    Args:
        data: The name of a published data set (docs/data-sets.md lists them); or a folder
            ``split/class/image`` or a zip of one; or a folder that ``acclimate corrupt`` wrote. The
            folder of a split is ``train`` or one of ``test``, ``val`` and ``validation``. Classes
            are the sorted names of the folders in ``train``, if it exists, as in torchvision.
        split: ``train`` or ``test``.
        root: Folder of the published data set, or the folder that contains it.
        domain: Domain to load, for a data set with domains: corruption and severity, such as
            ``fog/3``, for names that end in -c and for what ``acclimate corrupt`` wrote; ``sketch``
            and so on for ``pacs``. ``domains`` lists them.
        size: Resize the shorter side to this many pixels and crop the centre square; or a
            `Preprocessing`, for its network's pixels. Without it, all must have the same size.
        cache: Folder for decoded images; default ``$ACCLIMATE_CACHE`` or the user's cache folder.
        download: Let torchvision download ``cifar10`` or ``cifar100`` into ``root`` first.

    Raises:
        InputError: the data is missing or cannot be used. Single images that cannot be used are
            not an error: they are listed in ``skipped``.
    """
    preprocessing = _checked(split, size)
    name = str(data)
    if name in SETS:
        listing, domain = lookup.find(name, split, root, domain, download)
    else:
        path = _existing(data, download)
        name = path.stem if path.is_file() else path.resolve().name
        listing, domain = _find_in_path(path, split, domain)
    if not listing.classes:
        raise InputError(
            f"{data} has no labels, since it was made with --unlabelled: use load_images, or make "
            "it again from labelled images."
        )
    usable = _decode(listing.images, listing.paths, preprocessing, cache)
    label_of = dict(zip(listing.paths, listing.labels.tolist()))
    labels = torch.tensor([label_of[path] for path in usable.paths])
    skipped = (*listing.skipped, *usable.skipped)
    return LabelledImages(
        usable.images, labels, listing.classes, name, domain, usable.paths, skipped
    )


def load_images(
    data: str | Path,
    split: Split | None = None,
    *,
    root: Path | None = None,
    domain: str | None = None,
    size: Side | Preprocessing | None = None,
    cache: Path | None = None,
    download: bool = False,
) -> Images:
    """Load the images of a folder, a zip, an array or a published data set, without labels.

    ```python
    images = load_images("photos", size=64).images  # uint8 [n, 3, 64, 64]
    ```

    Args:
        data: A folder or a zip, searched recursively, its images in natural path order (2 before
            10); an ``.npy`` file with uint8 ``[n, height, width, channels]``; or a name or a folder
            that ``acclimate corrupt`` wrote, as in ``load``.
        split: Split to load, if the data has splits. None loads all images.
        root: As in ``load``.
        domain: As in ``load``.
        size: As in ``load``.
        cache: As in ``load``.
        download: As in ``load``.

    Raises:
        InputError: as in ``load``.
    """
    preprocessing = _checked(split, size)
    name, skipped = str(data), ()
    if name in SETS:
        splits = lookup.splits(name) if split is None else (split,)
        parts = [lookup.find(name, each, root, domain, download)[0] for each in splits]
        listing = join(parts)
        images, paths, skipped = listing.images, listing.paths, listing.skipped
    else:
        path = _existing(data, download)
        if manifest.is_ours(path):
            listing, _ = lookup.find_corrupted(path, split or "test", domain)
            images, paths = listing.images, listing.paths
        else:
            _check_no_domain(path, domain)
            images, paths = _all_in_path(path, split)
    usable = _decode(images, paths, preprocessing, cache)
    return Images(usable.images, usable.paths, (*skipped, *usable.skipped))


def domains(data: str | Path, *, root: Path | None = None) -> tuple[str, ...]:
    """List the domains of a data set that exist on disk: the values of ``domain`` in ``load``.

    ```python
    domains("pacs", root="data")  # ("art_painting", "cartoon", "photo", "sketch")
    ```

    Args:
        data: The name of a published data set or a folder, as in ``load``.
        root: As in ``load``.

    Returns:
        The domains; empty for a data set without domains.

    Raises:
        InputError: the data set or folder does not exist, or has none of its domains.
    """
    if str(data) in SETS:
        return lookup.domains(str(data), root)
    path = _existing(data, download=False)
    return manifest.read(path).domains if manifest.is_ours(path) else ()


def _checked(split: str | None, size: Side | Preprocessing | None) -> Preprocessing | None:
    """The size as a preprocessing, after a check of the arguments."""
    if split is not None and split not in folders.SPLITS:
        raise unknown_name("split", split, folders.SPLITS)
    if size is None:
        return None
    if not isinstance(size, Preprocessing):
        if not 1 <= min(both(size)) <= max(both(size)) <= _MAX_SIZE:
            raise InputError(f"size is {size}: give a size from 1 to {_MAX_SIZE} pixels.")
        return Preprocessing(size)
    return size


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
            f"{path} has no domains, since it has no readable {manifest.NAME} written by acclimate "
            f"corrupt: leave {domain!r} out."
        )


def _find_in_path(path: Path, split: Split, domain: str | None) -> tuple[Listing, str]:
    """List a split of a folder or a zip, or a domain of what ``acclimate corrupt`` wrote."""
    if manifest.is_ours(path):
        return lookup.find_corrupted(path, split, domain)
    _check_no_domain(path, domain)
    if path.suffix.lower() == ".npy":
        raise InputError(f"{path} has no labels: give a folder split/class/image or a zip of one.")
    items, classes, class_of = folders.labelled_items(path, split)
    label_of = {name: label for label, name in enumerate(classes)}
    paths = tuple(item.path for item in items)
    labels = [label_of[class_of[each]] if each in class_of else -1 for each in paths]
    return Listing(items, paths, np.asarray(labels, np.int64), classes), ""


def _all_in_path(
    path: Path, split: Split | None
) -> tuple[UInt8[np.ndarray, "n height width channels"] | Sequence[Item], tuple[str, ...]]:
    """List the images of an array, a folder or a zip, with their paths."""
    if path.suffix.lower() == ".npy":
        array = open_images(path, "write it with numpy.save", channels=(1, 3, 4))
        return array, array_paths(path.name, 0, len(array))
    items = folders.items(path, split)
    return items, tuple(item.path for item in items)


def _decode(
    images: UInt8[np.ndarray, "n height width channels"] | Sequence[Item],
    paths: tuple[str, ...],
    preprocessing: Preprocessing | None,
    cache: Path | None,
) -> Images:
    """Decode images; those that cannot be used are skipped."""
    if isinstance(images, np.ndarray):
        if preprocessing is None or images.shape[1:] == preprocessing.shape:
            return Images(_tensor(images), paths)
        if images.shape[-1] == 4:
            raise InputError(
                f"images of 4 channels are not resized; give an array of {preprocessing.height} x "
                f"{preprocessing.width} pixels."
            )
        images = [
            Item(path, partial(_hash_pixels, image), partial(_picture, image))
            for path, image in zip(paths, images)
        ]
    result = decoded(images, preprocessing=preprocessing, cache=cache)
    return Images(_tensor(result.images), result.paths, result.skipped)


def _hash_pixels(image: UInt8[np.ndarray, "height width channels"]) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def _picture(image: UInt8[np.ndarray, "height width channels"]) -> Image.Image:
    return Image.fromarray(image if image.shape[-1] == 3 else image[..., 0])


def _tensor(
    array: UInt8[np.ndarray, "n height width channels"],
) -> UInt8[Tensor, "n channels height width"]:
    with warnings.catch_warnings():
        # The array is read-only on purpose. The system may refuse a private writable map of a
        # large data set for lack of memory, and writing to a shared one would change the cache.
        warnings.filterwarnings("ignore", message=".*not writable", category=UserWarning)
        return torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2)
