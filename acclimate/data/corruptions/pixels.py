"""Functions that all corruptions use: conversion of pixel values, random numbers, interpolation.

Corruptions multiply and add in separate operations and in a fixed order, without matrix products of
floats and without fused multiply-add, so that a pixel's value does not depend on its batch.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from acclimate import randomness


@dataclass(frozen=True)
class Draws:
    """Random numbers for a chunk of images, one row per image, independent of the chunk.

    ```python
    noise = Draws((0, "fog", 3), torch.arange(8)).normal("noise", 3 * 32 * 32)  # [8, 3072]
    ```

    Attributes:
        origin: Seed, corruption and severity.
        index: Index of each image in its data set.
    """

    origin: tuple[int, str, int]
    index: Int64[Tensor, " n"]

    def uniform(self, purpose: str, count: int) -> Float32[Tensor, "n count"]:
        """Uniform random numbers in [0, 1), independent for different purposes."""
        return randomness.uniform(randomness.key(*self.origin, purpose), self.index, count)

    def normal(self, purpose: str, count: int) -> Float32[Tensor, "n count"]:
        """Standard normal random numbers, independent for different purposes."""
        return randomness.normal(randomness.key(*self.origin, purpose), self.index, count)


def to_float(images: UInt8[Tensor, "..."]) -> Float32[Tensor, "..."]:
    """Pixel values 0..255 as float32 in contiguous layout; images are often channels_last."""
    return images.to(torch.float32, memory_format=torch.contiguous_format)


def to_unit(images: UInt8[Tensor, "..."]) -> Float32[Tensor, "..."]:
    """Pixel values as fractions 0..1, in contiguous layout."""
    return to_float(images).div_(255)


def to_levels(fractions: Float32[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    """Fractions as bytes: clipped to 0..1 and truncated (not rounded), as in the benchmark.

    A thousandth of a level is added first, so that a rounding error of float32 does not change the
    level.
    """
    return fractions.mul(255).add_(1e-3).clamp_(0, 255).to(torch.uint8)


def round_levels(levels: Float32[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    """Levels 0..255 as bytes, rounded half up, as in image libraries."""
    return levels.add(0.5 + 1e-3).clamp_(0, 255).to(torch.uint8)


def interpolate(
    fractions: Float32[Tensor, "n 3 h w"],
    across: Float32[Tensor, "#n h w"],
    down: Float32[Tensor, "#n h w"],
    *,
    outer_edge: bool = False,
) -> Float32[Tensor, "n 3 h w"]:
    """Sample images at positions (across, down) bilinearly; pixel centres are 0, 1, ...

    Beyond its edges an image is mirrored about its outermost pixels' centres, or about their outer
    edges if ``outer_edge`` is true.
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
