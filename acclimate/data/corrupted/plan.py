"""The plan of a corrupted data set: its corruptions and severities, and its layout on disk."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from acclimate.data.corruptions import CORRUPTIONS, PUBLISHED, SEVERITIES
from acclimate.errors import InputError, unknown_name

Layout = Literal["npy", "folders"]
Format = Literal["jpeg", "png"]

_SMALL = 64
"""Images whose longer side is below this are written as arrays, larger ones as folders, because
TinyImageNet-C (64 pixels) is published as folders."""


class Part(NamedTuple):
    """A part of a corrupted data set that is written atomically: an array, or a severity's folder.

    With arrays a part holds all severities of a corruption.
    """

    key: str
    """Path relative to the data set's folder."""
    corruption: str
    """Name of the corruption."""
    severities: tuple[int, ...]
    """Severities that the part holds."""


@dataclass(frozen=True)
class CorruptionPlan:
    """Which corruptions of a data set to write, and how.

    ```python
    plan = CorruptionPlan(("fog", "contrast"), severities=(5,), image_format="png")
    ```

    Raises:
        InputError: a corruption or severity is unknown or repeated, or there is none.
    """

    corruptions: tuple[str, ...] = PUBLISHED
    """Names of the corruptions."""
    severities: tuple[int, ...] = tuple(SEVERITIES)
    """Severities 1..5, in the order in which arrays stack them."""
    seed: int = 0
    """Seed of the corruptions."""
    layout: Layout | None = None
    """Layout on disk. None chooses by image size: folders from 64 pixels on, else npy."""
    image_format: Format = "jpeg"
    """File format in the layout folders: JPEG of quality 85, as published, or lossless PNG."""

    def __post_init__(self) -> None:
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
        """The layout for images of this size."""
        return self.layout or ("npy" if max(height, width) < _SMALL else "folders")

    def parts(self, layout: Layout) -> list[Part]:
        """The parts to write, in order."""
        if layout == "npy":
            return [Part(f"{name}.npy", name, self.severities) for name in self.corruptions]
        return [
            Part(f"{name}/{severity}", name, (severity,))
            for name in self.corruptions
            for severity in self.severities
        ]
