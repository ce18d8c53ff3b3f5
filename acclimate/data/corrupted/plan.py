"""What a corrupted set is to hold, and how it is to lie on the disk."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from acclimate.data.corruptions import CORRUPTIONS, PUBLISHED, SEVERITIES
from acclimate.errors import InputError, unknown_name

Layout = Literal["npy", "folders"]
Format = Literal["jpeg", "png"]

_SMALL = 64
"""Images with no side as long as this are small: TinyImageNet-C is published as folders."""


class Part(NamedTuple):
    """What is made as a whole: an array, or a folder of one severity."""

    key: str
    """Its path below the set's folder."""
    corruption: str
    severities: tuple[int, ...]


@dataclass(frozen=True)
class CorruptionPlan:
    """Which corruptions of a data set to write, and how.

    Raises:
        InputError: an unknown or repeated corruption or severity, or none.
    """

    corruptions: tuple[str, ...] = PUBLISHED
    severities: tuple[int, ...] = tuple(SEVERITIES)
    """1..5 each, in the order in which arrays stack them."""
    seed: int = 0
    """Of all that is random."""
    layout: Layout | None = None
    """Without it as the images' size suggests: folders from 64 pixels on."""
    image_format: Format = "jpeg"
    """Of images in folders: JPEG of quality 85, as published, or PNG, which loses nothing."""

    def __post_init__(self):
        for corruption in self.corruptions:
            if corruption not in CORRUPTIONS:
                raise unknown_name("corruption", corruption, CORRUPTIONS)
        for severity in self.severities:
            if severity not in SEVERITIES:
                raise InputError(
                    f"severity {severity} does not exist: use whole numbers from 1 to 5."
                )
        for kind, values in (("corruption", self.corruptions), ("severity", self.severities)):
            if not values or len(set(values)) < len(values):
                raise InputError(f"give at least one {kind}, and none twice.")

    def layout_for(self, height: int, width: int) -> Layout:
        """The layout of images of this size."""
        return self.layout or ("npy" if max(height, width) < _SMALL else "folders")

    def parts(self, layout: Layout) -> list[Part]:
        """What is to be made, in order."""
        if layout == "npy":
            return [Part(f"{name}.npy", name, self.severities) for name in self.corruptions]
        return [
            Part(f"{name}/{severity}", name, (severity,))
            for name in self.corruptions
            for severity in self.severities
        ]
