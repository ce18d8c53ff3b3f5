"""Drops of water or mud on the lens.

The benchmark draws the water's outline with OpenCV. The same operations (OpenCV's manual; Canny,
*A computational approach to edge detection*, PAMI 1986; Borgefors, *Distance transformations in
digital images*, CVGIP 1986) are computed here on integers stored as float32, which is exact.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor
from torch.nn import functional

from acclimate.data.corruptions.blur import gaussian
from acclimate.data.corruptions.layers import fit, published_shape
from acclimate.data.corruptions.pixels import Draws, to_levels, to_unit
from acclimate.runtime.constants import on_device

_WATER, _MUD = (175, 238, 238), (63, 42, 20)  # red, green, blue
_WEAK_EDGE, _STRONG_EDGE = 50, 150
_FARTHEST = 20
_STEP = 2**16  # distances are integer multiples of 1 / _STEP of a pixel
# Steps of the distance transform (down, across, length): straight, diagonal, knight's move.
_MOVES = [
    (y, x, round({1: 1.0, 2: 1.4, 5: 2.1969}[y * y + x * x] * _STEP))
    for y in range(-2, 3)
    for x in range(-2, 3)
    if y * y + x * x in (1, 2, 5)
]


def spatter(
    images: UInt8[Tensor, "n 3 h w"],
    constant: tuple[float, float, float, float, float, bool],
    scale: float,
    draws: Draws,
) -> UInt8[Tensor, "n 3 h w"]:
    """Drops of water (pale turquoise) or mud (brown) where blurred noise exceeds a threshold.

    ``constant`` is the mean and the standard deviation of the noise, the standard deviation of its
    blur in pixels, the threshold, the opacity of water or the standard deviation of the blur that
    softens mud, and whether it is mud. Drops are made at the published size and resized.
    """
    mean, deviation, blur, threshold, last, is_mud = constant
    height, width = published_shape(images, scale)
    liquid = draws.normal("liquid", height * width).view(-1, height, width)
    liquid = gaussian(liquid.mul_(deviation).add_(mean)[:, None], blur)[:, 0]
    mask = _mud(liquid > threshold, last) if is_mud else _water(liquid, threshold).mul_(last)
    mask = fit(mask, images)[:, None]
    colour = on_device(_MUD if is_mud else _WATER, images.device, torch.int64)[:, None, None] / 255
    fractions = to_unit(images)
    return to_levels((fractions * (1 - mask) if is_mud else fractions).add_(mask * colour))


def _mud(drops: Bool[Tensor, "n h w"], blur: float) -> Float32[Tensor, "n h w"]:
    """The mask of mud: blurred drops; values below 0.8, such as thin drops, are set to 0."""
    mask = gaussian(drops.float()[:, None], blur)[:, 0]
    return mask.masked_fill_(mask < 0.8, 0)


def _water(liquid: Float32[Tensor, "n h w"], threshold: float) -> Float32[Tensor, "n h w"]:
    """The mask of water, 0..1: embossed drops whose depth is the distance to their outline."""
    levels = to_levels(liquid.masked_fill(liquid < threshold, 0)).float()
    depth = _distance(_edges(levels))
    depth = (_sum3(depth) / (9 * _STEP)).floor_()
    depth = _equalised(depth)
    lit = _emboss(depth).clamp_(0, 255)
    drops = levels.mul_((_sum3(lit) / 9).round_())
    return drops.div_(drops.amax((1, 2), keepdim=True).clamp_(min=1))  # an image may have no drops


def _edges(levels: Float32[Tensor, "n h w"]) -> Bool[Tensor, "n h w"]:
    """Canny edges: ridges of the gradient that are strong, or weak but connected to strong ones."""
    around = _neighbours(levels, "replicate")
    right = around(0, 1) * 2 + around(-1, 1) + around(1, 1)
    left = around(0, -1) * 2 + around(-1, -1) + around(1, -1)
    below = around(1, 0) * 2 + around(1, -1) + around(1, 1)
    above = around(-1, 0) * 2 + around(-1, -1) + around(-1, 1)
    across, down = right - left, below - above
    strength = across.abs() + down.abs()

    near = _neighbours(strength, "constant")
    flat = down.abs() < across.abs() * 0.41421356  # within 22.5 degrees of the axis
    steep = down.abs() > across.abs() * 2.41421356
    rising = across * down < 0
    ridge = torch.where(
        flat,
        (strength > near(0, -1)) & (strength >= near(0, 1)),
        torch.where(
            steep,
            (strength > near(-1, 0)) & (strength >= near(1, 0)),
            torch.where(
                rising,
                (strength > near(-1, 1)) & (strength > near(1, -1)),
                (strength > near(-1, -1)) & (strength > near(1, 1)),
            ),
        ),
    )
    weak = (ridge & (strength > _WEAK_EDGE)).float()
    edges = weak * (strength > _STRONG_EDGE)
    while True:
        grown = functional.max_pool2d(edges, 3, stride=1, padding=1).mul_(weak)
        if torch.equal(grown, edges):
            return edges.bool()
        edges = grown


def _distance(edges: Bool[Tensor, "n h w"]) -> Float32[Tensor, "n h w"]:
    """Distance transform: length of the shortest path to an edge in steps of `_MOVES`.

    Lengths are in units of 1 / `_STEP` pixels and at most `_FARTHEST` pixels.
    """
    farthest = _FARTHEST * _STEP
    distance = torch.where(edges, 0.0, float(farthest))
    height, width = edges.shape[1:]
    while True:
        padded = functional.pad(distance, (2, 2, 2, 2), value=farthest)
        shorter = distance
        for y, x, length in _MOVES:
            moved = padded[:, 2 + y : 2 + y + height, 2 + x : 2 + x + width]
            shorter = torch.minimum(shorter, moved + length)
        if torch.equal(shorter, distance):
            return distance
        distance = shorter


def _equalised(depth: Float32[Tensor, "n h w"]) -> Float32[Tensor, "n h w"]:
    """Histogram equalisation: each level becomes the share of pixels up to it; the lowest, 0."""
    pixels = depth[0].numel()
    levels = depth.flatten(1).long()  # 0.._FARTHEST
    count = torch.zeros(len(depth), _FARTHEST + 1, dtype=torch.long, device=depth.device)
    count.scatter_add_(1, levels, torch.ones_like(levels))
    running = count.cumsum(1)
    lowest = levels.amin(1, keepdim=True)
    at_lowest = count.gather(1, lowest)
    factor = 255 / (pixels - at_lowest).clamp_(min=1).float()
    table = ((running - at_lowest).float() * factor).round_()
    table = torch.where(at_lowest == pixels, lowest.float(), table)  # a single level is kept
    return table.gather(1, levels).view(depth.shape)


def _emboss(depth: Float32[Tensor, "n h w"]) -> Float32[Tensor, "n h w"]:
    """Emboss along the diagonal from the upper left to the lower right."""
    at = _neighbours(depth, "reflect")
    lit = at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1) * 2
    return lit - at(-1, -1) * 2 - at(-1, 0) - at(0, -1)


def _sum3(layer: Float32[Tensor, "n h w"]) -> Float32[Tensor, "n h w"]:
    """The sum over 3 x 3 pixels; the layer is padded by reflection."""
    at = _neighbours(layer, "reflect")
    rows = [at(y, -1) + at(y, 0) + at(y, 1) for y in (-1, 0, 1)]
    return rows[0] + rows[1] + rows[2]


def _neighbours(
    layer: Float32[Tensor, "n h w"], mode: str
) -> Callable[[int, int], Float32[Tensor, "n h w"]]:
    """A function of (down, across) that returns the neighbour of each pixel at that offset."""
    height, width = layer.shape[1:]
    padded = functional.pad(layer[:, None], (1, 1, 1, 1), mode=mode)[:, 0]
    return lambda y, x: padded[:, 1 + y : 1 + y + height, 1 + x : 1 + x + width]
