"""Mild random views, by which CoTTA's and RoTTA's teachers are asked; on whole batches.

The ranges are those of CoTTA's release. There one draw serves a whole batch; here each image has
draws of its own, which depend on (key, image index) alone. The change of gamma comes first instead
of at a random place among the changes of colour.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import grid_sample

from acclimate.randomness import Key, key, normal, uniform
from acclimate.views.simclr import SimCLRViews, draw_jitter, jitter
from acclimate.views.together import coloured

_COLOURS = SimCLRViews(brightness=0.4, contrast=0.3, saturation=0.5, hue=0.06)
_GAMMA = 0.3
_DEGREES = 15.0
_SHIFT = 1 / 8  # of the image: the release shifts by 1/16 of an image padded to twice its size
_SCALE = 0.1
_LEAST_BLUR, _MOST_BLUR = 0.001, 0.5  # standard deviations, in pixels
_REACH = 2  # pixels to either side that the blur reads
_NOISE = 0.005
# Random numbers of a view: 8 for colours, 1 for gamma, 4 for the place, 1 for the flip, 1 for blur.
_NUMBERS = 15
# Values per chunk on a CPU, which stay in a core's cache through a chain of operations.
_CHUNK_VALUES = 2**18


def mild_views(
    images: Float[Tensor, "batch channels h w"],
    *,
    key: Key,
    index: Int64[Tensor, " batch"],
    count: int = 1,
) -> Float[Tensor, "count*batch channels h w"]:
    """Gamma, colour jitter, rotation, shift, zoom, blur, flip and noise, all of them mild.

    ```python
    views = mild_views(images, key=key(0, "views"), index=index, count=32)
    ```

    Args:
        images: RGB or grey, 0..1. Colours of images with another number of channels stay.
        key: From `acclimate.randomness.key`.
        index: Index of each image in its data set or stream.
        count: Number of views of each image.

    Returns:
        All first views, then all second views, and so on; 0..1.
    """
    batch, *shape = images.shape
    numbers = uniform(key, index, _NUMBERS * count)  # [batch, 15 count]
    numbers = numbers.view(batch, count, _NUMBERS).transpose(0, 1).flatten(0, 1)
    noise = _noise(key, index, count, shape)
    rows = torch.arange(batch * count, device=images.device)
    chunk = len(rows)
    if images.device.type == "cpu":
        chunk = max(1, _CHUNK_VALUES // math.prod(shape))
    views = [
        _views(images[some % batch], numbers[some], noise[some])
        for some in rows.split(max(1, chunk))
    ]
    return torch.cat(views).contiguous(memory_format=torch.channels_last)


def _noise(base: Key, index: Tensor, count: int, shape: list[int]) -> Tensor:
    """Standard normal noise for each view."""
    values = normal(key(base, "noise"), index, count * math.prod(shape))
    return values.view(len(index), count, *shape).transpose(0, 1).flatten(0, 1)


def _views(images: Tensor, numbers: Tensor, noise: Tensor) -> Tensor:
    colours, gamma, place, flip, blur = numbers.split([8, 1, 4, 1, 1], dim=1)
    images = images ** (1 + _GAMMA * (2 * gamma[:, :, None, None] - 1))
    if images.shape[1] in (1, 3):
        images = _coloured(images, colours)
    images = _placed(images, place, flip.squeeze(1) < 0.5)
    width = _LEAST_BLUR + (_MOST_BLUR - _LEAST_BLUR) * blur.squeeze(1)
    return blurred(images, width).add_(noise, alpha=_NOISE).clamp_(0, 1)


def _coloured(images: Tensor, numbers: Tensor) -> Tensor:
    factors, order = draw_jitter(numbers, _COLOURS)
    if images.device.type == "cpu":
        return jitter(images, factors, order)
    jittered = torch.ones(len(images), dtype=torch.bool, device=images.device)
    return coloured(images, factors, order, jittered, ~jittered)


def _placed(images: Tensor, numbers: Tensor, flip: Tensor) -> Tensor:
    """Rotate, zoom, shift and flip; with a margin of `_REACH` pixels, and edges continued."""
    height, width = images.shape[-2:]
    angle, zoom, *shifts = (2 * numbers - 1).unbind(1)
    angle = angle * math.radians(_DEGREES)
    zoom = 1 / (1 + _SCALE * zoom)
    down, across = (
        (shift * _SHIFT * size).round()[:, None] for shift, size in zip(shifts, (height, width))
    )
    y, x = (_centred(size, images.device) for size in (height, width))  # [size + 2 reach]
    x = torch.where(flip[:, None], -x, x)[:, None, :] - across[:, None]
    y = (y - down)[:, :, None]
    cos, sin = ((zoom * f(angle))[:, None, None] for f in (torch.cos, torch.sin))
    grid = torch.stack(
        [(cos * x - sin * y) * (2 / width), (sin * x + cos * y) * (2 / height)], dim=3
    )
    return grid_sample(
        images, grid.to(images.dtype), mode="bilinear", padding_mode="border", align_corners=False
    )


def _centred(size: int, device: torch.device) -> Tensor:
    """Places of pixels from the image's middle, with the margin."""
    return torch.arange(-_REACH, size + _REACH, device=device) - (size - 1) / 2


def blurred(
    images: Float[Tensor, "batch channels h+4 w+4"], width: Float[Tensor, " batch"]
) -> Float[Tensor, "batch channels h w"]:
    """A Gaussian blur over 5 x 5 pixels, of another width for each image.

    Args:
        images: With a margin of 2 pixels.
        width: Standard deviations in pixels, above 0.
    """
    offsets = torch.arange(-_REACH, _REACH + 1, device=images.device)
    weights = (-0.5 * (offsets / width[:, None]) ** 2).exp()
    weights = (weights / weights.sum(1, keepdim=True)).to(images.dtype)[:, :, None, None, None]
    for dim in (2, 3):
        size = images.shape[dim] - 2 * _REACH
        parts = [images.narrow(dim, start, size) for start in range(2 * _REACH + 1)]
        images = parts[0] * weights[:, 0]
        for number, part in enumerate(parts[1:], 1):
            images.addcmul_(part, weights[:, number])
    return images
