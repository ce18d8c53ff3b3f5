"""ImageNet and test sets for its classifiers. Labels always index ImageNet's 1000 classes."""

from functools import cache
from importlib import resources

from acclimate.data.folders import Split
from acclimate.data.published import class_folders
from acclimate.data.published.listing import Listing, Place

_GROUPS = ("noise", "blur", "weather", "digital", "extra")
"""Names of ImageNet-C's archives, and of their folders if each is unpacked into its own."""


@cache
def synsets(which: str = "imagenet") -> tuple[str, ...]:
    """The WordNet ids of the 1000 classes in the order of their labels, or of 200 of them.

    Args:
        which: ``imagenet``, or ``imagenet_r`` or ``imagenet_a`` for the 200 classes of these.
    """
    # timm contains the published lists. Its ImageNetInfo gives access only to the first.
    file = resources.files("timm.data") / "_info" / f"{which}_synsets.txt"
    return tuple(file.read_text(encoding="utf-8").split())


def train_or_val(place: Place, split: Split, domain: str) -> Listing:
    """ImageNet, or a part of it, with its validation images sorted into class folders.

    These may lie in ``val``, ``validation`` or ``test``, or directly in the root.
    """
    if split == "train":
        return _read(place, "train")
    names = class_folders.subfolders(place.root)
    for name in ("val", "validation", "test"):
        if name in names:
            return _read(place, name)
    return _read(place, "" if set(names) & set(synsets()) else "val")


def imagenet_c(place: Place, split: Split, domain: str) -> Listing:
    """One corruption at one severity of ImageNet-C."""
    return _read(place, class_folders.severities(place.root, _GROUPS)[domain])


def imagenet_c_domains(place: Place) -> list[str]:
    """``CORRUPTION/SEVERITY`` for each folder that exists, also in the folder of a group."""
    return sorted(class_folders.severities(place.root, _GROUPS))


def flat(place: Place, split: Split, domain: str, which: str = "imagenet") -> Listing:
    """ImageNet-Sketch, -R or -A: class folders directly in the root."""
    return _read(place, "", which)


def imagenet_v2(place: Place, split: Split, domain: str) -> Listing:
    """ImageNet-V2. Its folders are named by label, so sorting by name would give a wrong order."""
    classes = synsets()
    label_of = {str(label): label for label in range(len(classes))}
    return class_folders.read(place.root, "", label_of, classes, place.remedy)


def _read(place: Place, below: str, which: str = "imagenet") -> Listing:
    classes = synsets()
    label = {name: index for index, name in enumerate(classes)}
    label_of = {name: label[name] for name in synsets(which)}
    return class_folders.read(place.root, below, label_of, classes, place.remedy)
