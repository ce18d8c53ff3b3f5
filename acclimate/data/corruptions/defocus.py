"""Defocus: correlation with a disk, exact in any order of summation."""

import math
from functools import lru_cache

import torch
from jaxtyping import Complex64, Float, Float32, Float64, UInt8
from torch import Tensor
from torch.nn import functional

from acclimate.data.corruptions.pixels import Draws, to_float, to_levels

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
        for weight in _kernel_spectra(kernel, size, levels.device)
    )
    return multiples.mul_(_BASE).add_(rest).add_(middle * int(kernel.sum()))


# Cached, because the CPU's FFT library makes a new plan whenever the kind of transform changes.
@lru_cache(maxsize=20)
def _kernel_spectra(
    kernel: Float64[Tensor, "side side"], size: tuple[int, int], device: torch.device
) -> Complex64[Tensor, "2 padded_h half_w"]:
    """The kernel's multiples of `_BASE` and the rest, in the frequency domain."""
    coarse = (kernel / _BASE).round()
    parts = torch.stack([coarse, kernel - coarse * _BASE]).float()
    return torch.fft.rfft2(parts, s=size).conj().resolve_conj().to(device)


def _convolve(
    image: Float[Tensor, "side side"], weights: Float[Tensor, " taps"]
) -> Float[Tensor, "side side"]:
    """Convolution with a separable, symmetric kernel; the image is padded by reflection."""
    reach = len(weights) // 2
    padded = functional.pad(image[None, None], (reach,) * 4, mode="reflect")
    return functional.conv2d(padded, torch.outer(weights, weights)[None, None])[0, 0]
