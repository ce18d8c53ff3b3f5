"""Images in memory, with and without labels, and parts of them."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from acclimate.data.cache import Skipped
from acclimate.errors import InputError


def _shown(images: Tensor) -> str:
    """Number and shape of images, in words."""
    count, *shape = images.shape
    return f"{count:,} images of {' × '.join(map(str, shape))}"


@dataclass(frozen=True)
class LabelledImages:
    """Images with labels.

    ```python
    data = LabelledImages(images, labels, classes=("cat", "dog"), name="pets")
    ```
    """

    images: UInt8[Tensor, "n channels height width"]
    """Images 0..255, not normalised, in channels_last layout. They may be a read-only memory map:
    clone before changing them."""
    labels: Int64[Tensor, " n"]
    """Class index of each image."""
    classes: tuple[str, ...]
    """Name of each class."""
    name: str
    """Name of the data set."""
    domain: str = ""
    """Domain of the images, e.g. ``"fog/3"`` or ``"sketch"``; empty for a data set without domains.
    """
    paths: tuple[str, ...] = ()
    """Path of each image, relative to the folder or archive; may be empty."""
    skipped: tuple[Skipped, ...] = ()
    """Images that could not be used, and why."""

    def __repr__(self) -> str:
        name = self.domain and f" {self.domain}"
        return (
            f"LabelledImages({self.name}{name}, {_shown(self.images)}, {len(self.classes)} classes)"
        )


@dataclass(frozen=True)
class Images:
    """Images without labels.

    ```python
    data = Images(images, paths=("a.jpg", "b.jpg"))
    ```
    """

    images: UInt8[Tensor, "n channels height width"]
    """Images 0..255, not normalised, in channels_last layout. They may be a read-only memory map:
    clone before changing them."""
    paths: tuple[str, ...]
    """Path of each image, relative to the folder or archive."""
    skipped: tuple[Skipped, ...] = ()
    """Images that could not be used, and why."""

    def __repr__(self) -> str:
        return f"Images({_shown(self.images)})"


def hold_out(data: LabelledImages, every: int = 20) -> tuple[LabelledImages, LabelledImages]:
    """Split off every n-th image, for example to choose settings on.

    The images are evenly spaced, so a data set sorted by class stays balanced.

    ```python
    rest, held_out = hold_out(load("fashion-mnist-mini", "train"), every=20)
    ```

    Args:
        data: The images to split.
        every: n; one image in n is held out.

    Returns:
        The remaining images and the images held out.

    Raises:
        InputError: one of the two would be empty.
    """
    if not 2 <= every <= len(data.images):
        raise InputError(
            f"every must lie in 2..{len(data.images)} to hold out some images and keep others, "
            f"not {every}."
        )
    is_held_out = torch.arange(len(data.images)) % every == every - 1
    rest, held_out = (_part(data, mask.nonzero()[:, 0]) for mask in (~is_held_out, is_held_out))
    return rest, held_out


def subset(data: LabelledImages, count: int | None) -> LabelledImages:
    """Choose ``count`` images, evenly spaced, so that a data set sorted by class stays balanced.

    ```python
    few = subset(load("fashion-mnist-mini", "test"), 200)
    ```

    Args:
        data: The images to choose from.
        count: Number of images; None, or more than there are, chooses all.
    """
    if count is None or count >= len(data.images):
        return data
    return _part(data, torch.arange(count) * len(data.images) // count)


def _part(data: LabelledImages, index: Int64[Tensor, " part"]) -> LabelledImages:
    paths = tuple(data.paths[i] for i in index.tolist()) if data.paths else ()
    return replace(data, images=data.images[index], labels=data.labels[index], paths=paths)
