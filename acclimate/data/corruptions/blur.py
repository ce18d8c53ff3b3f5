"""Blur: weighted means over neighbouring pixels."""

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from acclimate.data.corruptions.pixels import (
    Draws,
    interpolate,
    round_levels,
    to_levels,
    to_unit,
)

_WEIGHTS = 2**13  # sum of the motion blur's integer weights: with 8-bit channels, sums have 21 bits


def glass_blur(
    images: UInt8[Tensor, "n 3 h w"],
    constant: tuple[float, int, int],
    scale: float,
    draws: Draws,
) -> UInt8[Tensor, "n 3 h w"]:
    """Frosted glass: pixels are replaced by random neighbours, between two Gaussian blurs.

    ``constant`` is the standard deviation of the blurs and the largest offset of a neighbour, both
    in pixels of the published size, and the number of passes over all pixels.
    """
    deviation, distance, passes = constant
    deviation, distance = deviation * scale, max(1, round(distance * scale))
    pixels = to_levels(gaussian(to_unit(images), deviation)).flatten(2)  # [n, 3, h w]
    height, width = images.shape[2:]
    for step in range(passes):
        uniform = draws.uniform(f"offsets {step}", height * width)
        source = _glass_source(uniform, height, width, distance)
        pixels = pixels.gather(2, source[:, None].expand(-1, 3, -1))
    return to_levels(gaussian(to_unit(pixels.view(images.shape)), deviation))


def motion_blur(
    images: UInt8[Tensor, "n 3 h w"], constant: tuple[float, float], scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """Motion blur: half a Gaussian along a line, at a random angle of -45 to 45 degrees per image.

    Follows ImageMagick, which uses the nearest pixels along the line and repeats the image's edge.
    ``constant`` is the radius and the standard deviation in pixels of the published size.
    """
    radius, deviation = (length * scale for length in constant)
    angle = draws.uniform("angle", 1).double() * 90 - 45
    return round_levels(streak(images, angle, radius, deviation))


def streak(
    levels: UInt8[Tensor, "n channels h w"],
    angle: Float64[Tensor, "n 1"],
    radius: float,
    deviation: float,
) -> Float32[Tensor, "n channels h w"]:
    """The mean along a line at an angle of -45 to 45 degrees, weighted by half a Gaussian.

    Supports one to three channels. They are packed into one int64, 21 bits each, and then gathered,
    weighted and summed together.
    """
    # Weights beyond five standard deviations are negligible.
    taps = min(2 * math.ceil(radius) + 1, math.ceil(5 * deviation) + 1)
    distance = torch.arange(taps, dtype=torch.float64)
    weights = torch.exp(-(distance**2) / (2 * deviation**2))
    weights = (weights / weights.sum() * _WEIGHTS).round().long()
    weights[0] += _WEIGHTS - weights.sum()

    angle = torch.deg2rad(angle)
    distance = torch.arange(taps, dtype=torch.float64, device=angle.device)
    across, down = ((distance * f(angle) - 0.5).ceil().long() for f in (torch.cos, torch.sin))
    packed = levels[:, 0].long()
    for place in range(1, levels.shape[1]):
        packed += levels[:, place].long() << 21 * place
    reach = taps - 1
    height, width = levels.shape[2:]
    y, x = (
        torch.arange(length, device=levels.device) for length in (height + 2 * reach, width + reach)
    )
    packed = packed[:, (y - reach).clamp_(0, height - 1)[:, None], x.clamp_(max=width - 1)]
    windows = packed.unfold(1, height, 1).unfold(2, width, 1)  # [n, 2 reach + 1, taps, h, w]
    rows = torch.arange(len(levels), device=levels.device)
    total = torch.zeros_like(levels[:, 0], dtype=torch.int64)
    for tap, weight in enumerate(weights.tolist()):
        total += windows[rows, down[:, tap] + reach, across[:, tap]].mul_(weight)
    channels = [total >> 21 * place & (2**21 - 1) for place in range(levels.shape[1])]
    return torch.stack(channels, 1).float().div_(_WEIGHTS)


def zoom_blur(
    images: UInt8[Tensor, "n 3 h w"], constant: tuple[float, float], scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """Zoom blur: the mean of the image and of enlargements by increasing factors.

    ``constant`` is the end of the range of factors and its step. The range begins with 1, so the
    image itself counts twice.
    """
    # np.arange, as in the benchmark: its rounding decides whether the end is included.
    factors = np.arange(1, *constant).tolist()
    fractions = to_unit(images)
    total = fractions.clone()
    for factor in factors:
        down, across = (
            enlarged(length, factor, images.device).to(total.dtype) for length in images.shape[2:]
        )
        down, across = torch.broadcast_tensors(down[None, :, None], across)  # [1, h, w]
        total += interpolate(fractions, across, down)
    return to_levels(total.div_(len(factors) + 1))


def gaussian_blur(
    images: UInt8[Tensor, "n 3 h w"], constant: float, scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """A Gaussian blur; ``constant`` is its standard deviation in pixels of the published size."""
    return to_levels(gaussian(to_unit(images), constant * scale))


def gaussian(fractions: Float32[Tensor, "n 3 h w"], deviation: float) -> Float32[Tensor, "n 3 h w"]:
    """A Gaussian blur, cut off at four standard deviations; the image's edge is repeated."""
    reach = int(4 * deviation + 0.5)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-(offsets**2) / (2 * deviation**2))
    weights = (weights / weights.sum()).tolist()
    for axis, sides in ((2, (0, 0, reach, reach)), (3, (reach, reach, 0, 0))):
        length = fractions.shape[axis]
        padded = functional.pad(fractions, sides, mode="replicate")
        fractions = fractions * weights[reach]
        for tap in range(reach):  # pairs of pixels, from the outermost inwards
            pair = padded.narrow(axis, tap, length) + padded.narrow(axis, 2 * reach - tap, length)
            fractions += pair.mul_(weights[tap])
    return fractions


def _glass_source(
    uniform: Float32[Tensor, "n pixels"], height: int, width: int, distance: int
) -> Int64[Tensor, "n pixels"]:
    """The index of the source pixel of each pixel after one pass; ``uniform`` draws the offsets.

    The benchmark visits the pixels from the last to the first. It intends to swap each with one at
    an offset of -distance to distance - 1 along both axes, but overwrites it instead, so it may
    copy a pixel that was overwritten before. To follow these chains in parallel, each pixel's
    source is replaced by its source's source until nothing changes; a chain's length halves each
    time. A GPU is not asked whether something changed: it does so as often as the longest chain
    could need.
    """
    line = torch.arange(-distance, distance, device=uniform.device)
    offsets = (line[:, None] * width + line).flatten()
    option = uniform.mul(len(offsets)).int().clamp_(max=len(offsets) - 1).flatten()
    y, x = (torch.arange(length, device=uniform.device) for length in (height, width))
    y, x = ((place > distance) & (place <= len(place) - distance) for place in (y, x))
    written = (y[:, None] & x).flatten()  # [pixels]
    here = torch.arange(height * width, device=uniform.device)
    source = offsets.index_select(0, option).view_as(uniform).mul_(written).add_(here)
    # A chain continues if the source comes later in the image, since it was then overwritten
    # before. The ends of chains are stored as their complement, which is negative.
    source = torch.where((source > here) & written[source], source, ~source)
    for _ in range((height * width).bit_length()):
        if source.device.type == "cpu" and not (source >= 0).any():
            break
        source = torch.where(source >= 0, source.gather(1, source.clamp(min=0)), source)
    return ~source


@lru_cache(maxsize=1000)
def enlarged(length: int, factor: float, device: torch.device) -> Float64[Tensor, " length"]:
    """The source position of each pixel of an enlarged and centre-cropped image along one axis.

    The crop that is enlarged and its enlargement both have integer lengths in pixels. Their
    outermost pixels coincide.
    """
    crop = math.ceil(length / factor)
    grown = round(crop * factor)
    place = torch.arange(length, dtype=torch.float64) + (grown - length) // 2
    return (place * ((crop - 1) / max(grown - 1, 1)) + (length - crop) // 2).to(device)
