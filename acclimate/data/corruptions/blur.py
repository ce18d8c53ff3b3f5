"""Corruptions by an optical system: a weighted mean over neighbouring pixels."""

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

_WEIGHTS = 2**13  # a channel's 8 bits and these make 21
_MOST, _BASE = 2**16 - 2**10, 32
_SMALL = 11


def defocus_blur(
    images: UInt8[Tensor, "n 3 h w"], constant: tuple[float, float], scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """A lens out of focus: each point becomes a disk.

    ``constant`` is the disk's radius and the standard deviation of the blur that softens its rim,
    in pixels of the published size.
    """
    kernel = _kernel(constant, scale)
    padded = functional.pad(to_float(images), (len(kernel) // 2,) * 4, mode="reflect")
    correlate = _by_taps if len(kernel) <= _SMALL else _by_fourier
    return to_levels(correlate(padded, kernel).div_(255 * int(kernel.sum())))


def glass_blur(
    images: UInt8[Tensor, "n 3 h w"],
    constant: tuple[float, int, int],
    scale: float,
    draws: Draws,
) -> UInt8[Tensor, "n 3 h w"]:
    """Frosted glass: pixels take a near one's place, between two Gaussian blurs.

    ``constant`` is the blurs' standard deviation and how far a pixel comes, both in pixels of the
    published size, and how often all pixels are replaced.
    """
    deviation, distance, passes = constant
    deviation, distance = deviation * scale, max(1, round(distance * scale))
    pixels = to_levels(gaussian(to_unit(images), deviation)).flatten(2)  # [n, 3, h w]
    height, width = images.shape[2:]
    for turn in range(passes):
        chance = draws.uniform(f"offsets {turn}", height * width)
        source = _glass(chance, height, width, distance)
        pixels = pixels.gather(2, source[:, None].expand(-1, 3, -1))
    return to_levels(gaussian(to_unit(pixels.view(images.shape)), deviation))


def motion_blur(
    images: UInt8[Tensor, "n 3 h w"], constant: tuple[float, float], scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """A moving camera: half a Gaussian along a line, at an angle of -45 to 45 degrees an image.

    Follows ImageMagick, which looks up the nearest pixel along the line and repeats the image's
    edge. ``constant`` is radius and standard deviation in pixels of the published size.
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

    One to three channels. They are looked up, weighted and added all at once, as 21 bits each of
    one whole number.
    """
    # Beyond five standard deviations the weights are nothing.
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
    """A camera that moves ahead: the mean of the image and of it enlarged step by step.

    ``constant`` is where the enlargements end, and their step. They begin with 1, so that the image
    itself counts twice.
    """
    # NumPy's range, as the benchmark's, for its rounding: it decides whether the end is included.
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
    """A Gaussian of four standard deviations to each side; the image's edge is repeated."""
    reach = int(4 * deviation + 0.5)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-(offsets**2) / (2 * deviation**2))
    weights = (weights / weights.sum()).tolist()
    for axis, sides in ((2, (0, 0, reach, reach)), (3, (reach, reach, 0, 0))):
        length = fractions.shape[axis]
        padded = functional.pad(fractions, sides, mode="replicate")
        fractions = fractions * weights[reach]
        for tap in range(reach):  # from the outermost pair of pixels inwards
            pair = padded.narrow(axis, tap, length) + padded.narrow(axis, 2 * reach - tap, length)
            fractions += pair.mul_(weights[tap])
    return fractions


def _glass(
    chance: Float32[Tensor, "n pixels"], height: int, width: int, distance: int
) -> Int64[Tensor, "n pixels"]:
    """Which pixel of the image each pixel shows after one turn; ``chance`` draws the offsets.

    The benchmark goes through the pixels from the last to the first and means to swap each with one
    at an offset of -distance to distance - 1 along both axes. It overwrites it instead, and may
    copy a pixel that has been overwritten before. To follow such chains all at once, every pixel
    takes over what its source points to, again and again: a chain's length halves each time.
    """
    line = torch.arange(-distance, distance, device=chance.device)
    offsets = (line[:, None] * width + line).flatten()
    option = chance.mul(len(offsets)).int().clamp_(max=len(offsets) - 1).flatten()
    y, x = (torch.arange(length, device=chance.device) for length in (height, width))
    y, x = ((place > distance) & (place <= len(place) - distance) for place in (y, x))
    written = (y[:, None] & x).flatten()  # [pixels]
    here = torch.arange(height * width, device=chance.device)
    source = offsets.index_select(0, option).view_as(chance).mul_(written).add_(here)
    # A chain goes on where the source comes later in the image and so was written before. Ends are
    # kept as their complement, which is negative.
    source = torch.where((source > here) & written[source], source, ~source)
    while (source >= 0).any():
        source = torch.where(source >= 0, source.gather(1, source.clamp(min=0)), source)
    return ~source


def enlarged(length: int, factor: float) -> Float64[Tensor, " length"]:
    """Where along an axis each pixel of the enlarged image comes from.

    The crop that is enlarged and the enlarged axis are whole numbers of pixels; their outermost
    pixels match.
    """
    crop = math.ceil(length / factor)
    grown = round(crop * factor)
    place = torch.arange(length, dtype=torch.float64) + (grown - length) // 2
    return place * ((crop - 1) / max(grown - 1, 1)) + (length - crop) // 2


def _disk(radius: float, deviation: float, scale: float) -> Float64[Tensor, "side side"]:
    """A disk that sums to 1, its rim softened, resized from the published size to the image's.

    The kernel and not its radius is scaled: on the pixel grid a disk of radius 1 has five pixels,
    and one of radius 0.9 would have one.
    """
    half, window = (8, 1) if radius <= 8 else (math.ceil(radius), 2)
    line = torch.arange(-half, half + 1, dtype=torch.float64)
    disk = (line**2 + line[:, None] ** 2 <= radius**2).double()
    gauss = torch.exp(-(torch.arange(-window, window + 1.0).double() ** 2) / (2 * deviation**2))
    kernel = _convolve(disk / disk.sum(), gauss / gauss.sum())
    if scale != 1:
        side = 2 * round(half * scale) + 1
        kernel = functional.interpolate(
            kernel[None, None], (side, side), mode="bilinear", antialias=True
        )[0, 0]
    kernel = kernel / kernel.sum()
    kernel[kernel < 1e-5] = 0
    margin = int(min(kernel.amax(0).nonzero().min(), kernel.amax(1).nonzero().min()))
    return kernel[margin : len(kernel) - margin, margin : len(kernel) - margin]


@lru_cache(maxsize=20)
def _kernel(constant: tuple[float, float], scale: float) -> Float64[Tensor, "side side"]:
    """Nearly the disk, in whole numbers: their order in a sum does not matter.

    For images of up to 700 pixels or so they sum to less than 2^16, so that float32 holds all their
    sums with 0..255 exactly. The largest weight, which a disk has nearly everywhere, becomes a
    multiple of `_BASE`.
    """
    disk = _disk(*constant, scale)
    largest = disk.max().item()
    multiple = max(1, math.floor(_MOST * largest / _BASE))
    return (disk * (multiple * _BASE / largest)).round()


def _by_taps(
    levels: Float32[Tensor, "n 3 tall wide"], kernel: Float64[Tensor, "side side"]
) -> Float32[Tensor, "n 3 h w"]:
    """The sums by a kernel that is the same upside down and left to right.

    Rows at the same distance from the middle one are added first, then columns.
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


def _by_fourier(
    levels: Float32[Tensor, "n 3 tall wide"], kernel: Float64[Tensor, "side side"]
) -> Float32[Tensor, "n 3 h w"]:
    """The sums by a large kernel, in the frequency domain.

    A transform's rounding errors may depend on the batch. So the kernel is taken apart into
    multiples of `_BASE` and the rest: each by itself gives whole sums so small that rounding makes
    them exact, at those sizes.
    """
    height, width = (length - len(kernel) + 1 for length in levels.shape[2:])
    size = tuple(-(-length // 32) * 32 for length in levels.shape[2:])  # lengths that are fast
    middle = 128  # around it, values and their sums are half as large
    spectrum = torch.fft.rfft2(levels - middle, s=size)
    multiples, rest = (
        torch.fft.irfft2(spectrum * weight, s=size)[:, :, :height, :width].round()
        for weight in _transformed(kernel, size).to(levels.device)
    )
    return multiples.mul_(_BASE).add_(rest).add_(middle * int(kernel.sum()))


# Kept, because the processor's library prepares itself anew whenever the kind of transform changes.
@lru_cache(maxsize=20)
def _transformed(
    kernel: Float64[Tensor, "side side"], size: tuple[int, int]
) -> Complex64[Tensor, "2 tall half"]:
    """The kernel's multiples of `_BASE`, and the rest, in the frequency domain."""
    coarse = (kernel / _BASE).round()
    parts = torch.stack([coarse, kernel - coarse * _BASE]).float()
    return torch.fft.rfft2(parts, s=size).conj().resolve_conj()


def _convolve(
    image: Float[Tensor, "side side"], weights: Float[Tensor, " taps"]
) -> Float[Tensor, "side side"]:
    """A separable, symmetric convolution; the image is mirrored about its outermost pixels."""
    reach = len(weights) // 2
    padded = functional.pad(image[None, None], (reach,) * 4, mode="reflect")
    return functional.conv2d(padded, torch.outer(weights, weights)[None, None])[0, 0]
