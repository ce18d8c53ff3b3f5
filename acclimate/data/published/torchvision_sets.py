"""CIFAR-10 and CIFAR-100 in torchvision's layout, and the names of their classes."""

import numpy as np

from acclimate.data.folders import Split
from acclimate.data.published.listing import Listing, Place, array_paths
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

# In the order of the labels. Torchvision reads the names from files that CIFAR-10-C and CIFAR-10.1
# do not have.
CIFAR10_CLASSES = tuple(_CIFAR10.split())
CIFAR100_CLASSES = tuple(_CIFAR100.split())


def read(place: Place, split: Split, domain: str) -> Listing:
    """CIFAR in torchvision's layout.

    Raises:
        InputError: a file is missing or is not the official one.
    """
    try:
        # The files are pickles: torchvision opens them only if they have the official MD5.
        data = _dataset_class(place)(place.root, train=split == "train", download=False)
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"{place.name} is not in {place.root}, or is damaged: {place.remedy}."
        ) from error
    labels = np.asarray(data.targets, np.int64)
    # The paths contain the split, so that they differ between the splits.
    paths = array_paths(f"{place.name}-{split}", 0, len(labels))
    return Listing(data.data, paths, labels, tuple(data.classes))


def download(place: Place) -> None:
    """Let torchvision download the data set unless it exists, and check its MD5.

    Raises:
        InputError: the data set cannot be downloaded.
    """
    try:
        _dataset_class(place)(place.root, train=True, download=True)
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"{place.name} could not be downloaded to {place.root} ({error}): check the network "
            "and the free disk space, then try again."
        ) from error


def _dataset_class(place: Place):
    from torchvision import datasets  # imported here because it takes seconds

    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[place.name]
