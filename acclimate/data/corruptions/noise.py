"""Noise: each channel of each pixel is corrupted independently."""

from functools import cache

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from acclimate.data.corruptions.pixels import Draws, to_levels, to_unit

Amount = float | Float32[Tensor, "n 1 1 1"]
"""Amount of noise: one for all images, or one per image."""


def gaussian_noise(
    images: UInt8[Tensor, "n 3 h w"], constant: Amount, scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """Gaussian noise, as in low light. ``constant`` is its standard deviation."""
    noise = draws.normal("noise", images[0].numel()).view(images.shape)
    return to_levels(noise.mul_(constant).add_(to_unit(images)))


def shot_noise(
    images: UInt8[Tensor, "n 3 h w"], constant: int, scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """Poisson noise of photon counts. ``constant`` is the mean count in a white pixel.

    A photon count is drawn by inverse transform sampling: it is the number of thresholds of the
    pixel's level that do not exceed a uniform random number, found by bisection.
    """
    thresholds = _photon_thresholds(constant, images.device)
    uniform = draws.uniform("noise", images[0].numel()).flatten()
    first = images.flatten().int() * thresholds.shape[1]  # int32: the table has < 2^18 values
    thresholds = thresholds.flatten()
    place, step = first.clone(), 1 << constant.bit_length() - 1
    while step:
        reached = thresholds.index_select(0, place + (step - 1)) <= uniform
        place += reached.int().mul_(step)
        step >>= 1
    return to_levels((place - first).float().div_(constant)).view(images.shape)


def impulse_noise(
    images: UInt8[Tensor, "n 3 h w"], constant: Amount, scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """Salt-and-pepper noise. ``constant`` is the share of values that are set to 0 or 255."""
    uniform = draws.uniform("noise", images[0].numel()).view(images.shape)
    # Products, since masked filling is many times slower on a CPU.
    kept = images.contiguous() * (uniform >= constant)
    return kept.add_((uniform < constant / 2).to(torch.uint8).mul_(255))


def speckle_noise(
    images: UInt8[Tensor, "n 3 h w"], constant: Amount, scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """Noise in proportion to the pixel value; ``constant`` is its relative standard deviation."""
    fractions = to_unit(images)
    noise = draws.normal("noise", images[0].numel()).view(images.shape)
    return to_levels(noise.mul_(constant).mul_(fractions).add_(fractions))


@cache
def _photon_thresholds(brightest: int, device: torch.device) -> Float32[Tensor, "256 places"]:
    """The cumulative Poisson distribution: row v, column k is P(at most k photons) at level v.

    Counts above ``brightest`` are white anyway, so they have no columns. The number of columns is
    rounded up to a power of 2; the columns added hold 2, which no uniform number reaches.
    """
    level = torch.arange(256, dtype=torch.float64)[:, None] * (brightest / 255)
    photons = torch.arange(1, brightest + 1, dtype=torch.float64)
    thresholds = torch.full((256, 1 << brightest.bit_length()), 2.0)
    thresholds[:, :brightest] = torch.special.gammaincc(photons, level)
    return thresholds.to(device)
