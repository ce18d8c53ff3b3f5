"""Blur: weighted means over neighbouring pixels."""

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Complex64, Float, Float32, Float64, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from acclimate.data.corruptions.pixels import (
    Draws,
    interpolate,
    round_levels,
    to_float,
    to_levels,
    to_unit,
)

_WEIGHTS = 2**13  # sum of the motion blur's integer weights: with 8-bit channels, sums have 21 bits
_MAX_SUM, _BASE = 2**16 - 2**10, 32  # of the defocus blur's integer kernel, see _integer_kernel
_SMALL = 11  # kernels up to this side are applied directly, larger ones by FFT


def defocus_blur(
    images: UInt8[Tensor, "n 3 h w"], constant: tuple[float, float], scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """Defocus: each point becomes a disk.

    ``constant`` is the disk's radius and the standard deviation of the Gaussian that softens its
    edge, in pixels of the published size.
    """
    kernel, one = _integer_kernel(constant, scale)
    padded = functional.pad(to_float(images), (len(kernel) // 2,) * 4, mode="reflect")
    correlate = _correlate_directly if len(kernel) <= _SMALL else _correlate_by_fft
    return to_levels(correlate(padded, kernel).div_(255 * one))


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
    distance = distance.to(angle)
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
        down, across = (enlarged(length, factor).to(total) for length in images.shape[2:])
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
    time.
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
    while (source >= 0).any():
        source = torch.where(source >= 0, source.gather(1, source.clamp(min=0)), source)
    return ~source


def enlarged(length: int, factor: float) -> Float64[Tensor, " length"]:
    """The source position of each pixel of an enlarged and centre-cropped image along one axis.

    The crop that is enlarged and its enlargement both have integer lengths in pixels. Their
    outermost pixels coincide.
    """
    crop = math.ceil(length / factor)
    grown = round(crop * factor)
    place = torch.arange(length, dtype=torch.float64) + (grown - length) // 2
    return place * ((crop - 1) / max(grown - 1, 1)) + (length - crop) // 2


def _disk(radius: float, deviation: float, scale: float) -> Float64[Tensor, "side side"]:
    """The defocus kernel: a disk with a soft edge, resized to the image's scale.

    The benchmark softens the edge by a blur that reflects at the array's border and does not
    normalise the kernel again. A disk that touches the border (radius 8 and 10) so sums to 1.013,
    and brightens the image; all others sum to 1.

    The kernel is scaled, not the radius: on the pixel grid, a disk of radius 1 has five pixels, but
    one of radius 0.9 has only one.
    """
    half, window = (8, 1) if radius <= 8 else (math.ceil(radius), 2)
    line = torch.arange(-half, half + 1, dtype=torch.float64)
    disk = (line**2 + line[:, None] ** 2 <= radius**2).double()
    gauss = torch.exp(-(torch.arange(-window, window + 1.0).double() ** 2) / (2 * deviation**2))
    kernel = _convolve(disk / disk.sum(), gauss / gauss.sum())
    total = kernel.sum()
    if scale != 1:
        side = 2 * round(half * scale) + 1
        kernel = functional.interpolate(
            kernel[None, None], (side, side), mode="bilinear", antialias=True
        )[0, 0]
    kernel = kernel * (total / kernel.sum())
    kernel[kernel < 1e-5] = 0
    margin = int(min(kernel.amax(0).nonzero().min(), kernel.amax(1).nonzero().min()))
    return kernel[margin : len(kernel) - margin, margin : len(kernel) - margin]


@lru_cache(maxsize=20)
def _integer_kernel(
    constant: tuple[float, float], scale: float
) -> tuple[Float64[Tensor, "side side"], float]:
    """The defocus kernel, scaled and rounded to integers, so that sums are exact in any order.

    For images of up to about 700 pixels the weights sum to less than 2^16, so float32 represents
    all weighted sums of 0..255 exactly. The largest weight, which most of the disk has, becomes a
    multiple of `_BASE`.

    Returns:
        The integers, and the number among them that stands for a weight of 1.
    """
    disk = _disk(*constant, scale)
    total = disk.sum().item()  # 1, or 1.01 where the disk touches its array's border
    total = total if total > 1.001 else 1.0  # less than 1 only by what was cut off
    largest = disk.max().item()
    multiple = max(1, math.floor(_MAX_SUM * largest / total / _BASE))
    kernel = (disk * (multiple * _BASE / largest)).round()
    return kernel, int(kernel.sum()) / total


def _correlate_directly(
    levels: Float32[Tensor, "n 3 padded_h padded_w"], kernel: Float64[Tensor, "side side"]
) -> Float32[Tensor, "n 3 h w"]:
    """Correlation with a kernel that is symmetric in both axes, one weight at a time.

    Rows at the same distance from the middle row are added before they are weighted, then columns.
    """
    reach = len(kernel) // 2
    height, width = (length - 2 * reach for length in levels.shape[2:])
    total = levels.new_zeros(*levels.shape[:2], height, width)
    pairs = [levels.narrow(2, reach, height)]  # by distance from the middle row
    for row in range(1, reach + 1):
        pairs.append(levels.narrow(2, reach - row, height) + levels.narrow(2, reach + row, height))
    for column, weights in enumerate(kernel[reach:, reach:].T.tolist()):
        weighted = pairs[0] * weights[0]
        for pair, weight in zip(pairs[1:], weights[1:]):
            if weight:
                weighted.add_(pair, alpha=weight)
        for side in {-column, column}:
            total += weighted.narrow(3, reach + side, width)
    return total


def _correlate_by_fft(
    levels: Float32[Tensor, "n 3 padded_h padded_w"], kernel: Float64[Tensor, "side side"]
) -> Float32[Tensor, "n 3 h w"]:
    """Correlation with a large kernel, in the frequency domain.

    Rounding errors of an FFT may depend on the batch. So the kernel is split into multiples of
    `_BASE` and the rest. The sums with each part are integers small enough that rounding recovers
    them exactly, for images of the size that `_integer_kernel` states.
    """
    height, width = (length - len(kernel) + 1 for length in levels.shape[2:])
    size = tuple(-(-length // 32) * 32 for length in levels.shape[2:])  # lengths with a fast FFT
    middle = 128  # subtracting it halves the largest value and the largest sum
    spectrum = torch.fft.rfft2(levels - middle, s=size)
    multiples, rest = (
        torch.fft.irfft2(spectrum * weight, s=size)[:, :, :height, :width].round()
        for weight in _kernel_spectra(kernel, size).to(levels.device)
    )
    return multiples.mul_(_BASE).add_(rest).add_(middle * int(kernel.sum()))


# Cached, because the CPU's FFT library makes a new plan whenever the kind of transform changes.
@lru_cache(maxsize=20)
def _kernel_spectra(
    kernel: Float64[Tensor, "side side"], size: tuple[int, int]
) -> Complex64[Tensor, "2 padded_h half_w"]:
    """The kernel's multiples of `_BASE` and the rest, in the frequency domain."""
    coarse = (kernel / _BASE).round()
    parts = torch.stack([coarse, kernel - coarse * _BASE]).float()
    return torch.fft.rfft2(parts, s=size).conj().resolve_conj()


def _convolve(
    image: Float[Tensor, "side side"], weights: Float[Tensor, " taps"]
) -> Float[Tensor, "side side"]:
    """Convolution with a separable, symmetric kernel; the image is padded by reflection."""
    reach = len(weights) // 2
    padded = functional.pad(image[None, None], (reach,) * 4, mode="reflect")
    return functional.conv2d(padded, torch.outer(weights, weights)[None, None])[0, 0]
