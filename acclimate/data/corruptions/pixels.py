"""What all corruptions share: the two scales of pixel values, and where random numbers come from.

Corruptions multiply and add in separate operations and in a fixed order (no matrix products of
floats, no fused multiply-add), so that a pixel's value does not depend on the batch it came in.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from acclimate import randomness


@dataclass(frozen=True)
class Draws:
    """Random numbers for a chunk of images: a row for each, whatever the chunk.

    Attributes:
        origin: Seed, corruption and severity.
        index: Indices of the images in their data set.
    """

    origin: tuple[int, str, int]
    index: Int64[Tensor, " n"]

    def uniform(self, purpose: str, count: int) -> Float32[Tensor, "n count"]:
        """Uniform numbers in [0, 1); another purpose gives unrelated ones."""
        return randomness.uniform(randomness.key(*self.origin, purpose), self.index, count)

    def normal(self, purpose: str, count: int) -> Float32[Tensor, "n count"]:
        """Standard normal numbers; another purpose gives unrelated ones."""
        return randomness.normal(randomness.key(*self.origin, purpose), self.index, count)


def to_float(images: UInt8[Tensor, "..."]) -> Float32[Tensor, "..."]:
    """Pixel values as they are, 0..255, in contiguous memory: images often come channels last."""
    return images.to(torch.float32, memory_format=torch.contiguous_format)


def to_unit(images: UInt8[Tensor, "..."]) -> Float32[Tensor, "..."]:
    """Pixel values as fractions, 0..1, in contiguous memory."""
    return to_float(images).div_(255)


def to_levels(fractions: Float32[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    """Pixel values as bytes: clipped to 0..1, then cut off (not rounded), as the benchmark does.

    A thousandth of a level is added, so that a value that is whole but for float32's rounding
    keeps its level.
    """
    return fractions.mul(255).add_(1e-3).clamp_(0, 255).to(torch.uint8)


def round_levels(levels: Float32[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    """Levels 0..255 as bytes, rounded half up, as image libraries do."""
    return levels.add(0.5 + 1e-3).clamp_(0, 255).to(torch.uint8)


def interpolate(
    fractions: Float32[Tensor, "n 3 h w"],
    across: Float32[Tensor, "#n h w"],
    down: Float32[Tensor, "#n h w"],
    *,
    outer_edge: bool = False,
) -> Float32[Tensor, "n 3 h w"]:
    """The images at places (across, down) between pixels, linearly; pixel centres are 0, 1, ...

    Beyond its edges an image is mirrored, about its outermost pixels or about their outer edge.
    """
    height, width = fractions.shape[2:]
    if outer_edge:
        grid = [(2 * across + 1) / width - 1, (2 * down + 1) / height - 1]
    else:
        grid = [2 * across / max(width - 1, 1) - 1, 2 * down / max(height - 1, 1) - 1]
    return functional.grid_sample(
        fractions,
        torch.stack(grid, -1).expand(len(fractions), -1, -1, -1),
        padding_mode="reflection",
        align_corners=not outer_edge,
    )
