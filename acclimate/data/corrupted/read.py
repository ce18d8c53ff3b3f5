"""Read a part of a corrupted set."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from acclimate.data import folders
from acclimate.data.corrupted import manifest
from acclimate.data.corrupted.manifest import NAME, REMEDY, Manifest
from acclimate.data.published import array_sets, class_folders
from acclimate.data.published.found import Found
from acclimate.errors import InputError


def read(folder: Path, described: Manifest, domain: str) -> Found:
    """One corruption at one severity; whatever is read is compared with its checksum.

    Args:
        folder: The folder with the manifest.
        described: The folder's manifest.
        domain: One of its domains.

    Raises:
        InputError: a file is missing, has changed, or does not fit the manifest.
    """
    if described.layout == "npy":
        array = f"{domain.split('/')[0]}.npy"
        for name in (array,) if described.classes is None else (array, "labels.npy"):
            manifest.verify(folder, described, name)
        found = array_sets.read_severity(
            folder, domain, described.severities, described.classes, described.size, REMEDY
        )
    else:
        manifest.verify(folder, described, domain)
        if described.classes is None:
            found = _unlabelled(folder, domain)
        else:
            label_of = {name: label for label, name in enumerate(described.classes)}
            found = class_folders.read(folder, domain, label_of, described.classes, REMEDY)
    if len(found.paths) != described.count:
        raise InputError(
            f"{folder} holds {len(found.paths)} images of {domain}, but its {NAME} says "
            f"{described.count}: {REMEDY}."
        )
    return found


def _unlabelled(folder: Path, domain: str) -> Found:
    items = folders.items(folder / domain)
    items = [replace(item, path=f"{domain}/{item.path}") for item in items]
    paths = tuple(item.path for item in items)
    return Found(items, paths, np.full(len(items), -1), ())
