"""Folders that ``acclimate corrupt`` wrote: a published layout with a manifest beside it."""

from pathlib import Path

from acclimate.data.published import array_sets, class_folders, manifest
from acclimate.data.published.found import Found
from acclimate.data.published.manifest import NAME, REMEDY, Manifest
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
        manifest.verify(folder, described, f"{domain.split('/')[0]}.npy")
        manifest.verify(folder, described, "labels.npy")
        found = array_sets.read_severity(
            folder, domain, described.severities, described.classes, described.size, REMEDY
        )
    else:
        manifest.verify(folder, described, domain)
        label_of = {name: label for label, name in enumerate(described.classes)}
        found = class_folders.read(folder, domain, label_of, described.classes, REMEDY)
    if len(found.paths) != described.count:
        raise InputError(
            f"{folder} holds {len(found.paths)} images of {domain}, but its {NAME} says "
            f"{described.count}: {REMEDY}."
        )
    return found
