"""Corruptions of single values: each channel of each pixel by itself."""

from functools import cache

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from acclimate.data.corruptions.pixels import Draws, to_levels, to_unit

Amount = float | Float32[Tensor, "n 1 1 1"]
"""Of noise: one for all images, or one for each."""


def gaussian_noise(
    images: UInt8[Tensor, "n 3 h w"], constant: Amount, scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """Add normal noise: low light. ``constant`` is its standard deviation."""
    noise = draws.normal("noise", images[0].numel()).view(images.shape)
    return to_levels(noise.mul_(constant).add_(to_unit(images)))


def shot_noise(
    images: UInt8[Tensor, "n 3 h w"], constant: int, scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """Poisson noise: light comes in photons. ``constant`` is their mean number in a white pixel.

    A value's photons are the number of thresholds of its level that a uniform number reaches,
    found by bisection.
    """
    thresholds = _photon_thresholds(constant).to(images.device)
    chance = draws.uniform("noise", images[0].numel()).flatten()
    first = images.flatten().int() * thresholds.shape[1]  # int32: the whole table has < 2^18 values
    thresholds = thresholds.flatten()
    place, step = first.clone(), 1 << constant.bit_length() - 1
    while step:
        reached = thresholds.index_select(0, place + (step - 1)) <= chance
        place += reached.int().mul_(step)
        step >>= 1
    return to_levels((place - first).float().div_(constant)).view(images.shape)


def impulse_noise(
    images: UInt8[Tensor, "n 3 h w"], constant: Amount, scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """Salt and pepper: bit errors. ``constant`` is the share of values set to 0 or 255."""
    chance = draws.uniform("noise", images[0].numel()).view(images.shape)
    # Products, as filling by a mask takes many times longer on a CPU.
    kept = images.contiguous() * (chance >= constant)
    return kept.add_((chance < constant / 2).to(torch.uint8).mul_(255))


def speckle_noise(
    images: UInt8[Tensor, "n 3 h w"], constant: Amount, scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """Add noise in proportion to the value; ``constant`` is its relative standard deviation."""
    fractions = to_unit(images)
    noise = draws.normal("noise", images[0].numel()).view(images.shape)
    return to_levels(noise.mul_(constant).mul_(fractions).add_(fractions))


@cache
def _photon_thresholds(brightest: int) -> Float32[Tensor, "256 places"]:
    """Row v, place k: the chance that a value of level v gets at most k photons.

    Photons beyond ``brightest`` are as good as white. 2^bits places; those after the last threshold
    are never reached.
    """
    level = torch.arange(256, dtype=torch.float64)[:, None] * (brightest / 255)
    photons = torch.arange(1, brightest + 1, dtype=torch.float64)
    thresholds = torch.full((256, 1 << brightest.bit_length()), 2.0)
    thresholds[:, :brightest] = torch.special.gammaincc(photons, level)
    return thresholds
