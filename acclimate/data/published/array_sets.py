"""Data sets of .npy arrays: CIFAR-10-C, CIFAR-100-C and CIFAR-10.1."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from acclimate.data.arrays import open_images, open_labels
from acclimate.data.folders import Split
from acclimate.data.published.listing import Listing, Place, array_paths
from acclimate.data.published.torchvision_sets import CIFAR10_CLASSES, CIFAR100_CLASSES
from acclimate.errors import InputError

_CLASSES = {"cifar10-c": CIFAR10_CLASSES, "cifar100-c": CIFAR100_CLASSES}
_CIFAR_SIZE = (32, 32)
_SEVERITIES = (1, 2, 3, 4, 5)


def cifar_c(place: Place, split: Split, domain: str) -> Listing:
    """One corruption at one severity of CIFAR-10-C or CIFAR-100-C.

    Raises:
        InputError: a file is missing or does not have the published shape and type.
    """
    classes = _CLASSES[place.name]
    return read_severity(place.root, domain, _SEVERITIES, classes, _CIFAR_SIZE, place.remedy)


def cifar_c_domains(place: Place) -> list[str]:
    """``CORRUPTION/SEVERITY`` for each array that exists."""
    names = sorted(file.stem for file in place.root.glob("*.npy") if file.name[0] != ".")
    return [f"{name}/{severity}" for name in names if name != "labels" for severity in _SEVERITIES]


def cifar101(place: Place, split: Split, domain: str, version: str) -> Listing:
    """CIFAR-10.1, version ``v6`` (2,000 images, class-balanced) or ``v4`` (2,021).

    Raises:
        InputError: a file is missing or does not have the published shape and type.
    """
    file = place.root / f"cifar10.1_{version}_data.npy"
    labels_file = place.root / f"cifar10.1_{version}_labels.npy"
    images = open_images(file, place.remedy)
    labels = open_labels(labels_file, len(CIFAR10_CLASSES), place.remedy)
    _check_size(file, images, _CIFAR_SIZE, place.remedy)
    if len(images) != len(labels):
        raise InputError(
            f"{file} holds {len(images)} images and {labels_file.name} {len(labels)} labels, "
            f"but there must be one label per image: {place.remedy}."
        )
    return Listing(images, array_paths(file.name, 0, len(images)), labels, CIFAR10_CLASSES)


def read_severity(
    folder: Path,
    domain: str,
    severities: Sequence[int],
    classes: tuple[str, ...] | None,
    size: tuple[int, int],
    remedy: str,
) -> Listing:
    """One severity of ``CORRUPTION.npy``; the file's other severities are not read.

    Args:
        folder: Folder of the array and of ``labels.npy``.
        domain: ``CORRUPTION/SEVERITY``.
        severities: Severities that the array stacks, in order; ``labels.npy`` repeats the labels
            for each.
        classes: Names of the classes; None if there are no labels.
        size: Height and width of the images in pixels.
        remedy: What to do if a file cannot be used; the end of the error message.

    Raises:
        InputError: a file is missing or damaged, or images and labels do not match.
    """
    corruption, severity = domain.split("/")
    file = folder / f"{corruption}.npy"
    images = open_images(file, remedy)
    _check_size(file, images, size, remedy)
    if classes is None:
        labels = np.full(len(images), -1)
    else:
        labels = open_labels(folder / "labels.npy", len(classes), remedy)
    by_severity = _by_severity(file, len(images), labels, len(severities), remedy)
    count = by_severity.shape[1]
    start = severities.index(int(severity)) * count
    paths = array_paths(file.name, start, start + count)
    return Listing(images[start : start + count], paths, by_severity[0], classes or ())


def _by_severity(
    file: Path, count: int, labels: Int64[np.ndarray, " n"], severities: int, remedy: str
) -> Int64[np.ndarray, "severities part"]:
    """Split the labels by severity and check that they are the same for each."""
    if count != len(labels) or count % severities:
        raise InputError(
            f"{file} holds {count} images and labels.npy {len(labels)} labels, but there "
            f"must be one label per image, in {severities} equal parts: {remedy}."
        )
    by_severity = labels.reshape(severities, -1)
    if not np.array_equal(by_severity, np.broadcast_to(by_severity[0], by_severity.shape)):
        raise InputError(
            f"{file.parent / 'labels.npy'} has different labels for different severities, "
            f"but all severities have the same images: {remedy}."
        )
    return by_severity


def _check_size(file: Path, images: np.ndarray, size: tuple[int, int], remedy: str) -> None:
    if images.shape[1:3] != size:
        raise InputError(
            f"{file} holds images of {images.shape[2]} x {images.shape[1]} pixels, but they must "
            f"be {size[1]} x {size[0]}: {remedy}."
        )
