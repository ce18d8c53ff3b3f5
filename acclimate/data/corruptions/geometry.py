"""Geometric corruption: each pixel is sampled at another position."""

from functools import lru_cache

import torch
from jaxtyping import Float32, Float64, UInt8
from torch import Tensor

from acclimate.data.corruptions.pixels import Draws, interpolate, to_levels, to_unit

# Bits of a smoothing weight and of a random displacement. Smoothing multiplies a displacement by
# two weights, and the product must fit into float64's 53 bits.
_WEIGHT_BITS, _FIELD_BITS = 18, 16


def elastic_transform(
    images: UInt8[Tensor, "n 3 h w"],
    constant: tuple[float, float, float],
    scale: float,
    draws: Draws,
) -> UInt8[Tensor, "n 3 h w"]:
    """Apply a random affine map, then move every pixel by a smooth random field.

    The affine map moves three corners of a square. ``constant`` is the field's strength, the
    standard deviation of the Gaussian that smooths it, and the largest displacement of a corner
    along an axis, all in pixels of the published size.
    """
    strength, deviation, jitter = (length * scale for length in constant)
    height, width = images.shape[2:]
    fractions = to_unit(images)
    across, down = _affine(draws, height, width, jitter)
    fractions = interpolate(fractions, across, down)
    if strength != 0:
        y, x = (torch.arange(length, device=images.device) for length in (height, width))
        across = _field(draws, "across", height, width, deviation).mul_(strength).add_(x)
        down = _field(draws, "down", height, width, deviation).mul_(strength).add_(y[:, None])
        fractions = interpolate(fractions, across, down, outer_edge=True)
    return to_levels(fractions)


def _affine(
    draws: Draws, height: int, width: int, jitter: float
) -> tuple[Float32[Tensor, "n h w"], Float32[Tensor, "n h w"]]:
    """The source position of each pixel (x, y) under the affine map that moves three corners.

    The corners a, b, c are the lower right, upper right and upper left of a square around the
    centre. The inverse map takes the moved sides b->a and c->b back to the original ones.
    """
    third = min(height, width) // 3
    moves = draws.uniform("corners", 6).view(-1, 3, 2, 1, 1).mul_(2).sub_(1).mul_(jitter)
    (ax, ay), (bx, by), (cx, cy) = (move.unbind(1) for move in moves.unbind(1))  # [n, 1, 1] each
    right, top = width // 2 + third, height // 2 - third
    down_x, down_y = ax - bx, ay - by + 2 * third
    across_x, across_y = bx - cx + 2 * third, by - cy
    area = down_x * across_y - down_y * across_x

    x = torch.arange(width, device=moves.device) - (bx + right)  # [n, 1, w]
    y = torch.arange(height, device=moves.device)[:, None] - (by + top)  # [n, h, 1]
    along_down = x * (across_y / area) - y * (across_x / area)
    along_across = y * (down_x / area) - x * (down_y / area)
    return right + along_across * (2 * third), top + along_down * (2 * third)


def _field(
    draws: Draws, purpose: str, height: int, width: int, deviation: float
) -> Float32[Tensor, "n h w"]:
    """Uniform noise in (-1, 1), smoothed by a Gaussian; the field is mirrored at its edges.

    Each axis is smoothed by a matrix product, since the Gaussian may be wider than the image. Noise
    and weights are integers, so float64 represents their products and sums exactly, in any order.
    """
    noise = draws.uniform(purpose, height * width).view(-1, height, width).double()
    noise = noise.mul_(2**_FIELD_BITS).floor_().mul_(2).sub_(2**_FIELD_BITS - 1)
    rows, columns = (_smoothing(length, deviation, noise.device) for length in (height, width))
    smooth = rows @ (noise @ columns.T)
    return smooth.mul_(2.0 ** -(_FIELD_BITS + 2 * _WEIGHT_BITS)).float()


@lru_cache(maxsize=20)
def _smoothing(
    length: int, deviation: float, device: torch.device
) -> Float64[Tensor, "length length"]:
    """The smoothing matrix: row i holds a Gaussian around i, cut at three deviations, × 2^18."""
    reach = int(3 * deviation + 0.5)
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-(offsets.double() ** 2) / (2 * deviation**2))
    weights = (weights / weights.sum() * 2**_WEIGHT_BITS).round()
    row = torch.arange(length)[:, None]
    mirrored = (row + offsets) % (2 * length)
    mirrored = torch.minimum(mirrored, 2 * length - 1 - mirrored)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    place = row.expand_as(mirrored), mirrored
    return matrix.index_put_(place, weights.expand(mirrored.shape), accumulate=True).to(device)
