"""Read a domain of a corrupted data set."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from acclimate.data import folders
from acclimate.data.corrupted import manifest
from acclimate.data.corrupted.manifest import NAME, REMEDY, Manifest
from acclimate.data.published import array_sets, class_folders
from acclimate.data.published.listing import Listing
from acclimate.errors import InputError


def read(folder: Path, contents: Manifest, domain: str) -> Listing:
    """List the images of one corruption at one severity, and verify their checksum.

    Args:
        folder: The folder with the manifest.
        contents: The folder's manifest.
        domain: One of the manifest's domains.

    Raises:
        InputError: a file is missing, has changed, or does not fit the manifest.
    """
    if contents.layout == "npy":
        array = f"{domain.split('/')[0]}.npy"
        for name in (array,) if contents.classes is None else (array, "labels.npy"):
            manifest.verify(folder, contents, name)
        listing = array_sets.read_severity(
            folder, domain, contents.severities, contents.classes, contents.size, REMEDY
        )
    else:
        manifest.verify(folder, contents, domain)
        if contents.classes is None:
            listing = _unlabelled(folder, domain)
        else:
            label_of = {name: label for label, name in enumerate(contents.classes)}
            listing = class_folders.read(folder, domain, label_of, contents.classes, REMEDY)
    if len(listing.paths) != contents.count:
        raise InputError(
            f"{folder} holds {len(listing.paths)} images of {domain}, but its {NAME} says "
            f"{contents.count}: {REMEDY}."
        )
    return listing


def _unlabelled(folder: Path, domain: str) -> Listing:
    items = folders.items(folder / domain)
    items = [replace(item, path=f"{domain}/{item.path}") for item in items]
    paths = tuple(item.path for item in items)
    return Listing(items, paths, np.full(len(items), -1), ())
