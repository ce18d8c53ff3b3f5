"""The argument and the result of every reader of a published data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from acclimate.data.cache import Item, Skipped


@dataclass(frozen=True)
class Listing:
    """Images that exist on disk, with labels; not decoded yet."""

    images: UInt8[np.ndarray, "n height width 3"] | Sequence[Item]
    """Array of pixels 0..255, perhaps a memory map, or files to decode."""
    paths: tuple[str, ...]
    """Path of each image, relative to the folder or archive; all are different."""
    labels: Int64[np.ndarray, " n"]
    """Class index of each image; -1 for images without a label, which are skipped when decoded
    unless the whole data set has no labels."""
    classes: tuple[str, ...]
    """Name of each class; empty for a data set without labels."""
    skipped: tuple[Skipped, ...] = ()
    """Images that the data set should have but that are missing."""


class Place(NamedTuple):
    """The location of a published data set on disk."""

    name: str
    """Name of the data set."""
    root: Path
    """The data set's own folder or archive."""
    remedy: str
    """How to get the data set; the end of error messages."""


def array_paths(name: str, start: int, stop: int) -> tuple[str, ...]:
    """Paths for the images in an array: ``name[row]``."""
    return tuple(f"{name}[{row}]" for row in range(start, stop))


def join(parts: Sequence[Listing]) -> Listing:
    """Concatenate several splits of one data set."""
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part.images, np.ndarray) for part in parts):
        images = np.concatenate([np.asarray(part.images) for part in parts])
    else:
        images = [image for part in parts for image in part.images]
    return Listing(
        images,
        tuple(path for part in parts for path in part.paths),
        np.concatenate([part.labels for part in parts]),
        parts[0].classes,
        tuple(each for part in parts for each in part.skipped),
    )
