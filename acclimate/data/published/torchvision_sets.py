"""CIFAR-10 and CIFAR-100 in torchvision's layout, and the names of their classes."""

import numpy as np

from acclimate.data.folders import Split
from acclimate.data.published.found import Found, Place, array_paths
from acclimate.errors import InputError

_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
    cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
    lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

# In the order of the labels. Torchvision reads them from files that the sets below do not have.
CIFAR10_CLASSES = tuple(_CIFAR10.split())
CIFAR100_CLASSES = tuple(_CIFAR100.split())


def read(place: Place, split: Split, domain: str) -> Found:
    """CIFAR as torchvision keeps it.

    Raises:
        InputError: a file is missing or is not the official one.
    """
    try:
        # The files are pickles: torchvision opens them only if their MD5 is the official one.
        found = _kind(place)(place.root, train=split == "train", download=False)
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"{place.name} is not in {place.root}, or damaged: {place.remedy}."
        ) from error
    labels = np.asarray(found.targets, np.int64)
    # The name stands for both splits, so the split is in the paths.
    paths = array_paths(f"{place.name}-{split}", 0, len(labels))
    return Found(found.data, paths, labels, tuple(found.classes))


def download(place: Place) -> None:
    """Let torchvision download the set unless it is there, and check its MD5.

    Raises:
        InputError: it cannot be downloaded.
    """
    try:
        _kind(place)(place.root, train=True, download=True)
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"{place.name} could not be downloaded to {place.root} ({error}): check the network "
            "and the space on the disk, then try again."
        ) from error


def _kind(place: Place):
    from torchvision import datasets  # seconds to import, and few calls need it

    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[place.name]
