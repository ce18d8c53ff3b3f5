"""Published data sets: one table with the source and the reader of each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from acclimate.data import fashion_mnist_mini
from acclimate.data.folders import Split
from acclimate.data.published import (
    array_sets,
    domain_sets,
    imagenet,
    tiny_imagenet,
    torchvision_sets,
)
from acclimate.data.published.listing import Listing, Place, array_paths

__all__ = ["SETS", "Published"]


@dataclass(frozen=True)
class Published:
    """A published data set: how to get and how to read it."""

    read: Callable[[Place, Split, str], Listing]
    """Function of place, split and domain ("" if there are no domains) that lists the images."""
    remedy: str
    """How to get the data set; the end of an error message."""
    inside: tuple[str, ...] = ()
    """Names of the data set's folder or archive inside the folder given as root."""
    tests: str = ""
    """Name of the data set with the training images, if this one has only test images."""
    domains: Callable[[Place], Sequence[str]] | None = None
    """Function that lists the domains that exist on disk; None if the data set has no domains."""
    whole: bool = False
    """Whether there are no published splits, so that each split is a whole domain."""
    classes: Callable[[], tuple[str, ...]] | None = None
    """Function that returns the classes which a manifest must have to be read under this name."""
    download: Callable[[Place], None] | None = None
    """Function that downloads the data set; None if acclimate cannot."""


def _read_embedded(place: Place, split: Split, domain: str) -> Listing:
    images, labels, classes = fashion_mnist_mini.read(split)
    array = np.asarray(images).transpose(0, 2, 3, 1)
    paths = array_paths(f"{place.name}-{split}", 0, len(array))
    return Listing(array, paths, np.asarray(labels, np.int64), tuple(classes))


def _zenodo(record: int, archive: str) -> str:
    return f"get {archive} from https://zenodo.org/records/{record} and unpack it"


def _torchvision(name: str) -> str:
    return f"get it with torchvision.datasets.{name}(root, download=True) in Python"


# The name of each data set, as in acclimate.data.load, and how to read it.
SETS = {
    "fashion-mnist-mini": Published(_read_embedded, "it is embedded"),
    "cifar10": Published(
        torchvision_sets.read, _torchvision("CIFAR10"), download=torchvision_sets.download
    ),
    "cifar100": Published(
        torchvision_sets.read, _torchvision("CIFAR100"), download=torchvision_sets.download
    ),
    "cifar10-c": Published(
        array_sets.cifar_c,
        _zenodo(2535967, "CIFAR-10-C.tar"),
        ("CIFAR-10-C",),
        "cifar10",
        array_sets.cifar_c_domains,
        classes=lambda: torchvision_sets.CIFAR10_CLASSES,
    ),
    "cifar100-c": Published(
        array_sets.cifar_c,
        _zenodo(3555552, "CIFAR-100-C.tar"),
        ("CIFAR-100-C",),
        "cifar100",
        array_sets.cifar_c_domains,
        classes=lambda: torchvision_sets.CIFAR100_CLASSES,
    ),
    **{
        name: Published(
            partial(array_sets.cifar101, version=version),
            f"get cifar10.1_{version}_data.npy and cifar10.1_{version}_labels.npy from "
            "https://github.com/modestyachts/CIFAR-10.1",
            ("datasets", "CIFAR-10.1", "CIFAR-10.1/datasets"),
            "cifar10",
        )
        for name, version in {"cifar10.1": "v6", "cifar10.1-v4": "v4"}.items()
    },
    "tiny-imagenet": Published(
        tiny_imagenet.read,
        "get http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        ("tiny-imagenet-200", "tiny-imagenet-200.zip"),
    ),
    "tiny-imagenet-c": Published(
        tiny_imagenet.tiny_imagenet_c,
        _zenodo(2536630, "Tiny-ImageNet-C.tar"),
        ("Tiny-ImageNet-C",),
        "tiny-imagenet",
        tiny_imagenet.tiny_imagenet_c_domains,
    ),
    "imagenet": Published(
        imagenet.train_or_val,
        "get ILSVRC 2012 from https://image-net.org and sort its images into train/WNID/ and "
        "val/WNID/, as torchvision.datasets.ImageNet does",
    ),
    "imagenet-c": Published(
        imagenet.imagenet_c,
        _zenodo(2235448, "its archives"),
        ("ImageNet-C", "imagenet-c"),
        "imagenet",
        imagenet.imagenet_c_domains,
        classes=imagenet.synsets,
    ),
    "imagenet-r": Published(
        partial(imagenet.flat, which="imagenet_r"),
        "get imagenet-r.tar via https://github.com/hendrycks/imagenet-r and unpack it",
        ("imagenet-r",),
        "imagenet",
    ),
    "imagenet-a": Published(
        partial(imagenet.flat, which="imagenet_a"),
        "get imagenet-a.tar via https://github.com/hendrycks/natural-adv-examples and unpack it",
        ("imagenet-a",),
        "imagenet",
    ),
    "imagenet-sketch": Published(
        imagenet.flat,
        "get it via https://github.com/HaohanWang/ImageNet-Sketch and unpack it",
        ("sketch", "ImageNet-Sketch", "imagenet-sketch"),
        "imagenet",
    ),
    "imagenet-v2": Published(
        imagenet.imagenet_v2,
        "get it via https://github.com/modestyachts/ImageNetV2 and unpack it",
        ("imagenetv2-matched-frequency-format-val",),
        "imagenet",
    ),
    "pacs": Published(
        domain_sets.read,
        "get it via https://domaingeneralization.github.io",
        ("PACS", "pacs", "kfold"),
        domains=domain_sets.domains,
        whole=True,
    ),
    "office-home": Published(
        domain_sets.read,
        "get it from https://www.hemanthdv.org/officeHomeDataset.html",
        ("OfficeHomeDataset_10072016", "OfficeHome", "office_home"),
        domains=domain_sets.domains,
        whole=True,
    ),
    "visda": Published(
        domain_sets.read,
        "get train.tar and validation.tar via "
        "https://github.com/VisionLearningGroup/taskcv-2017-public and unpack both",
        ("visda", "VisDA", "VISDA-C"),
        domains=domain_sets.domains,
        whole=True,
    ),
}
