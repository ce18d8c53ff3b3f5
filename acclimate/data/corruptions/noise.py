"""Corruptions of single values: each channel of each pixel by itself."""

from jaxtyping import UInt8
from torch import Tensor

from acclimate.data.corruptions.pixels import Draws, to_levels, to_unit


def gaussian_noise(
    images: UInt8[Tensor, "n 3 h w"], constant: float, scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """Add normal noise: low light. ``constant`` is its standard deviation."""
    noise = draws.normal("noise", images[0].numel()).view(images.shape)
    return to_levels(noise.mul_(constant).add_(to_unit(images)))


def impulse_noise(
    images: UInt8[Tensor, "n 3 h w"], constant: float, scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """Salt and pepper: bit errors. ``constant`` is the share of values set to 0 or 255."""
    chance = draws.uniform("noise", images[0].numel()).view(images.shape)
    peppered = images.masked_fill(chance < constant, 0)
    return peppered.masked_fill_(chance < constant / 2, 255)


def speckle_noise(
    images: UInt8[Tensor, "n 3 h w"], constant: float, scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """Add noise in proportion to the value; ``constant`` is its relative standard deviation."""
    fractions = to_unit(images)
    noise = draws.normal("noise", images[0].numel()).view(images.shape)
    return to_levels(noise.mul_(constant).mul_(fractions).add_(fractions))
