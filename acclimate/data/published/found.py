"""What every reader of a set takes and gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from acclimate.data.cache import Item, Skipped


@dataclass(frozen=True)
class Found:
    """Images that are there and fit their labels, not yet decoded."""

    images: UInt8[np.ndarray, "n height width 3"] | Sequence[Item]
    """An array, perhaps a memory map, or files to decode."""
    paths: tuple[str, ...]
    """Where each image comes from, relative to the folder or archive; no two are equal."""
    labels: Int64[np.ndarray, " n"]
    """-1 where an image has none; such an image cannot be opened either."""
    classes: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    """What the set should have and has not."""


class Place(NamedTuple):
    """Where a set is looked for."""

    name: str
    root: Path
    """The set's own folder or archive."""
    remedy: str
    """How to get the set; ends the message of an error."""


def array_paths(name: str, start: int, stop: int) -> tuple[str, ...]:
    """Names for the rows of an array."""
    return tuple(f"{name}[{row}]" for row in range(start, stop))


def join(parts: Sequence[Found]) -> Found:
    """Several splits of one set, one behind the other."""
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part.images, np.ndarray) for part in parts):
        images = np.concatenate([np.asarray(part.images) for part in parts])
    else:
        images = [image for part in parts for image in part.images]
    return Found(
        images,
        tuple(path for part in parts for path in part.paths),
        np.concatenate([part.labels for part in parts]),
        parts[0].classes,
        tuple(each for part in parts for each in part.skipped),
    )
