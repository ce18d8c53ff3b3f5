"""Memory: which images a step learns from, the batch alone or earlier ones too.

Banks, which choose by the answers what they keep, are in `acclimate.parts.banks`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from acclimate.errors import InputError
from acclimate.parts.banks import Balanced, Reservoir, Shape

Images = Float[Tensor, "n channels height width"]
Index = Int64[Tensor, " n"]

_MOST = 10_000
"""Images that a memory may hold."""


@dataclass(frozen=True)
class CurrentBatch:
    """The batch alone."""

    images: ClassVar[int] = 1
    keeps: ClassVar[bool] = False

    def build(self, shape: Shape, device: torch.device, classes: int) -> "CurrentBatch":
        """Nothing is kept."""
        return self

    def remember(self, images: Images, index: Index) -> tuple[Images, Index]:
        """The images themselves."""
        return images, index

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


@dataclass(frozen=True)
class Recent:
    """The batch, completed with the most recent earlier images where it is small."""

    images: int = 8
    """The number of images up to which a batch is completed."""
    keeps: ClassVar[bool] = True

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        if not 1 <= self.images <= _MOST:
            raise InputError(f"images must be 1 to {_MOST}, not {self.images}.")

    def build(self, shape: Shape, device: torch.device, classes: int) -> "RecentImages":
        """An empty memory for images of this height, width and number of channels."""
        return RecentImages(self.images, shape, device)


@dataclass(frozen=True)
class Gathered:
    """Small batches are gathered: a step follows once so many new images have come.

    So each image is learned from once, whatever the batch size, and answers come at once. A batch
    that is large enough is learned from by itself.
    """

    images: int = 64
    """The number of images that a step waits for."""
    keeps: ClassVar[bool] = True

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        if not 1 <= self.images <= _MOST:
            raise InputError(f"images must be 1 to {_MOST}, not {self.images}.")

    def build(self, shape: Shape, device: torch.device, classes: int) -> "GatheredImages":
        """No image has come yet."""
        return GatheredImages(self.images, shape, device)


Memory = CurrentBatch | Recent | Gathered | Balanced | Reservoir


class RecentImages:
    """The latest images and their index in the stream, right-aligned in tensors of a fixed size.

    Args:
        capacity: How many images are kept.
        shape: Height, width and channels of an image.
        device: Where they are kept.
    """

    def __init__(self, capacity: int, shape: Shape, device: torch.device):
        height, width, channels = shape
        self.images: Tensor = torch.zeros(capacity, channels, height, width, device=device)
        self.index: Tensor = torch.zeros(capacity, dtype=torch.int64, device=device)
        # On the CPU: reading it decides shapes, and must not wait for a device.
        self.count: Tensor = torch.zeros((), dtype=torch.int64)

    def remember(self, images: Images, index: Index) -> tuple[Images, Index]:
        """Add a batch, and give what is to be learned from; the batch itself comes last."""
        capacity = len(self.images)
        earlier = max(0, min(int(self.count), capacity - len(images)))
        if earlier:
            images = torch.cat([self.images[-earlier:], images])
            index = torch.cat([self.index[-earlier:], index])
        kept = min(len(images), capacity)
        self.images[-kept:].copy_(images[-kept:])
        self.index[-kept:].copy_(index[-kept:])
        self.count.fill_(kept)
        return images, index

    def state(self) -> dict[str, Tensor]:
        """All that is kept."""
        return {"images": self.images, "index": self.index, "count": self.count}


class GatheredImages:
    """Images that wait for a step.

    Args:
        least: The number of images that a step waits for.
        shape: Height, width and channels of an image.
        device: Where they are kept.
    """

    def __init__(self, least: int, shape: Shape, device: torch.device):
        height, width, channels = shape
        self.least = least
        self.images: Tensor = torch.zeros(least, channels, height, width, device=device)
        self.index: Tensor = torch.zeros(least, dtype=torch.int64, device=device)
        # On the CPU: reading it decides shapes, and must not wait for a device.
        self.count: Tensor = torch.zeros((), dtype=torch.int64)

    def remember(self, images: Images, index: Index) -> tuple[Images, Index]:
        """Add a batch; all that waited and the batch if they are enough, else the batch alone.

        The batch itself comes last. Alone it is too small for a step; see `least`.
        """
        waiting, new = int(self.count), len(images)
        if waiting + new < self.least:
            self.images[waiting : waiting + new].copy_(images)
            self.index[waiting : waiting + new].copy_(index)
            self.count.add_(new)
        elif waiting:
            images = torch.cat([self.images[:waiting], images])
            index = torch.cat([self.index[:waiting], index])
            self.count.zero_()
        return images, index

    def state(self) -> dict[str, Tensor]:
        """All that waits."""
        return {"images": self.images, "index": self.index, "count": self.count}
