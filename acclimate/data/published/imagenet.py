"""ImageNet and the sets that test its classifiers; labels always index its 1000 classes."""

from functools import cache
from importlib import resources

from acclimate.data.folders import Split
from acclimate.data.published import class_folders
from acclimate.data.published.found import Found, Place

_GROUPS = ("noise", "blur", "weather", "digital", "extra")
"""The archives of ImageNet-C, which some people unpack each into a folder of its own."""


@cache
def synsets(which: str = "imagenet") -> tuple[str, ...]:
    """The WordNet ids of the 1000 classes in the order of their labels, or those of a part.

    Args:
        which: ``imagenet``, or ``imagenet_r`` or ``imagenet_a`` for the 200 classes of these.
    """
    # timm carries the published lists; its ImageNetInfo gives only the first of the three.
    file = resources.files("timm.data") / "_info" / f"{which}_synsets.txt"
    return tuple(file.read_text(encoding="utf-8").split())


def train_or_val(place: Place, split: Split, domain: str) -> Found:
    """ImageNet with its validation images sorted into class folders."""
    return _read(place, {"train": "train", "test": "val"}[split])


def imagenet_c(place: Place, split: Split, domain: str) -> Found:
    """One corruption at one severity of ImageNet-C."""
    return _read(place, class_folders.severities(place.root, _GROUPS)[domain])


def imagenet_c_domains(place: Place) -> list[str]:
    """``CORRUPTION/SEVERITY`` for each folder that is there, also below a group's folder."""
    return sorted(class_folders.severities(place.root, _GROUPS))


def flat(place: Place, split: Split, domain: str, which: str = "imagenet") -> Found:
    """Class folders side by side: ImageNet-Sketch, -R and -A."""
    return _read(place, "", which)


def imagenet_v2(place: Place, split: Split, domain: str) -> Found:
    """ImageNet-V2, whose folders are named by label; sorted by name they would be out of order."""
    classes = synsets()
    label_of = {str(label): label for label in range(len(classes))}
    return class_folders.read(place.root, "", label_of, classes, place.remedy)


def _read(place: Place, below: str, which: str = "imagenet") -> Found:
    classes = synsets()
    label = {name: index for index, name in enumerate(classes)}
    label_of = {name: label[name] for name in synsets(which)}
    return class_folders.read(place.root, below, label_of, classes, place.remedy)
