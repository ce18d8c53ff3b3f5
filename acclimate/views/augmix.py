"""AugMix views of whole batches (Hendrycks et al. 2020, *AugMix*), as MEMO draws them.

A view is a random crop, mixed with the mean of three chains of one to three random operations on
it. The operations are those of Pillow on images of 8 bits, at AugMix's lowest severity.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import grid_sample

from acclimate import randomness
from acclimate.randomness import Key, uniform
from acclimate.runtime.constants import on_device
from acclimate.views.augment import shifted_crop
from acclimate.views.simclr import draw_boxes, resized_crop

_CHAINS = 3
_LONGEST = 3
(
    AUTOCONTRAST,
    EQUALIZE,
    ROTATE,
    SOLARIZE,
    SHEAR_X,
    SHEAR_Y,
    TRANSLATE_X,
    TRANSLATE_Y,
    POSTERIZE,
    NOTHING,
) = range(10)
_LOWEST_LEVEL = 0.1  # of an operation, of at most 1
_DEGREES, _SHEAR, _SHIFT = 3.0, 0.03, 1 / 30  # at level 1; the shift as a share of the side
_SOLARIZED = 25.6  # at level 1: so many of the brightest levels of 256 are inverted
_POSTERIZED = 16.0  # levels that become one: four bits stay
_FILL = 128.0  # mid-grey, beyond the border
# Random numbers of a view: for each operation its kind, level and sign; the chains' lengths and
# weights; the weight of the crop itself.
_OPERATION = 3
_NUMBERS = _CHAINS * _LONGEST * _OPERATION + 2 * _CHAINS + 1
# Values per chunk on a CPU, which stay in a core's cache through a chain of operations.
_CHUNK_VALUES = 2**18


def augmix_views(
    images: Float[Tensor, "batch channels h w"],
    *,
    key: Key,
    index: Int64[Tensor, " batch"],
    count: int = 1,
    smallest_crop: float | None = None,
) -> Float[Tensor, "batch*count channels h w"]:
    """Random crop and flip, then a random mixture with chains of operations on it.

    With w drawn from Dirichlet(1, 1, 1) and m uniform, a view is m x + (1 − m) Σ_i w_i chain_i(x)
    of the crop x.

    ```python
    views = augmix_views(images, key=key(0, "views"), index=index, count=32)
    ```

    Args:
        images: 0..1, of any number of channels. The chains work on 256 levels.
        key: From `acclimate.randomness.key`.
        index: Index of each image in its data set or stream.
        count: Number of views of each image.
        smallest_crop: Smallest share of the area that a crop keeps, which is resized. None shifts
            the image instead, by at most an eighth of its side, over black.

    Returns:
        All views of the first image, then all of the second, and so on; 0..1.
    """
    copies = torch.arange(count, device=index.device)
    copy = (index[:, None] * count + copies).flatten()  # [batch count]
    several = images.repeat_interleave(count, dim=0)
    crops = _cropped(several, randomness.key(key, "crop"), copy, smallest_crop)
    numbers = uniform(randomness.key(key, "mix"), copy, _NUMBERS)
    chunk = max(1, len(crops))
    if images.device.type == "cpu":
        chunk = max(1, _CHUNK_VALUES // (_CHAINS * math.prod(images.shape[1:])))
    parts = zip(crops.split(chunk), numbers.split(chunk))
    mixed = torch.cat([_mixed(*part) for part in parts])
    return mixed.contiguous(memory_format=torch.channels_last)


def _cropped(images: Tensor, key: Key, index: Tensor, smallest: float | None) -> Tensor:
    """A random crop of each image, flipped half of the time."""
    height, width = images.shape[-2:]
    if smallest is None:
        return shifted_crop(images, max(height, width) // 8, key=key, index=index)
    numbers = uniform(key, index, 21)
    boxes = draw_boxes(numbers[:, :20], height, width, smallest)
    return resized_crop(images, boxes, flip=numbers[:, 20] < 0.5)


def _mixed(crops: Tensor, numbers: Tensor) -> Tensor:
    """Each crop, mixed with the chains on it."""
    views = len(crops)
    operations, lengths, weights, own = numbers.split(
        [_CHAINS * _LONGEST * _OPERATION, _CHAINS, _CHAINS, 1], dim=1
    )
    operations = operations.reshape(views * _CHAINS, _LONGEST, _OPERATION)
    lengths = 1 + (lengths.flatten() * _LONGEST).long()  # [views 3]
    levels = (crops * 255).round_().repeat_interleave(_CHAINS, dim=0)
    for number in range(_LONGEST):
        kind, level, sign = operations[:, number].unbind(1)
        kinds = torch.where(number < lengths, (kind * NOTHING).long(), NOTHING)
        level = _LOWEST_LEVEL + (1 - _LOWEST_LEVEL) * level
        levels = operated(levels, kinds, level, sign < 0.5)
    weights = -torch.log1p(-weights)  # exponential numbers, whose shares are of Dirichlet(1, 1, 1)
    weights = (1 - own) * weights / weights.sum(1, keepdim=True)
    chains = levels.view(views, _CHAINS, -1) / 255
    mixture = torch.einsum("vc,vcp->vp", weights.to(chains.dtype), chains)
    return torch.addcmul(mixture.view_as(crops), crops, own[:, :, None, None].to(crops.dtype))


def operated(
    levels: Float[Tensor, "n channels h w"],
    kinds: Int64[Tensor, " n"],
    level: Float[Tensor, " n"],
    negative: Bool[Tensor, " n"],
) -> Float[Tensor, "n channels h w"]:
    """One operation on each image, of another kind for each.

    Args:
        levels: Whole numbers 0..255; may be changed in place.
        kinds: `AUTOCONTRAST` to `NOTHING`.
        level: Strength of the operation, 0..1.
        negative: Whether a geometric operation goes the other way.
    """
    levels = _where(kinds == AUTOCONTRAST, _stretched, levels)
    levels = _where(kinds == EQUALIZE, _equalized, levels)
    levels = _where(kinds == SOLARIZE, _solarized, levels, level)
    levels = _where(kinds == POSTERIZE, _posterized, levels)
    moving = ((kinds >= SHEAR_X) & (kinds <= TRANSLATE_Y)) | (kinds == ROTATE)
    sign = torch.where(negative, -1.0, 1.0)
    return _where(moving, _moved, levels, kinds, level, sign)


def _where(
    chosen: Tensor, operation: Callable[..., Tensor], images: Tensor, *given: Tensor
) -> Tensor:
    """Images, some of them operated on; on a CPU the others are not computed."""
    if images.device.type != "cpu":  # to find out which they are would wait
        return torch.where(chosen[:, None, None, None], operation(images, *given), images)
    rows = chosen.nonzero().squeeze(1)
    images[rows] = operation(images[rows], *(each[rows] for each in given))
    return images


def _stretched(levels: Tensor) -> Tensor:
    """Each channel from 0 to 255, if it has more than one level (Pillow's autocontrast)."""
    least, most = levels.amin((2, 3), keepdim=True), levels.amax((2, 3), keepdim=True)
    width = most - least
    return torch.where(width > 0, ((levels - least) * 255 / width.clamp_min(1)).floor(), levels)


def _equalized(levels: Tensor) -> Tensor:
    """Each channel with about as many pixels of one level as of another (Pillow's equalize)."""
    # A place outside of the table would end the process on a GPU: NaN has one inside.
    places = levels.flatten(2).nan_to_num(0).clamp(0, 255).long()  # [n, channels, h w]
    counts = levels.new_zeros(*places.shape[:2], 256)
    counts.scatter_add_(2, places, torch.ones_like(places, dtype=levels.dtype))
    of_brightest = counts.gather(2, places.amax(2, keepdim=True))
    step = ((places.shape[2] - of_brightest) / 255).floor()  # [n, channels, 1]
    darker = counts.cumsum(2) - counts
    table = ((darker + (step / 2).floor()) / step.clamp_min(1)).floor().clamp_max(255)
    found = torch.where(step > 0, table.gather(2, places), levels.flatten(2))
    return found.view_as(levels)


def _solarized(levels: Tensor, level: Tensor) -> Tensor:
    """The brightest levels inverted."""
    threshold = 256 - (level * _SOLARIZED).floor()
    return torch.where(levels >= threshold[:, None, None, None], 255 - levels, levels)


def _posterized(levels: Tensor) -> Tensor:
    """The lower bits of each level 0."""
    return (levels / _POSTERIZED).floor() * _POSTERIZED


def _moved(levels: Tensor, kinds: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Rotate about the middle, shear from the upper left corner, or shift by whole pixels."""
    height, width = levels.shape[-2:]
    angle = torch.where(kinds == ROTATE, sign * (level * _DEGREES).floor() * math.pi / 180, 0)
    shear, shift = sign * level * _SHEAR, sign * level
    zero = torch.zeros_like(level)
    shear_x, shear_y = (
        torch.where(kinds == kind, shear, zero)[:, None, None] for kind in (SHEAR_X, SHEAR_Y)
    )
    across, down = (
        torch.where(kinds == kind, (shift * size * _SHIFT).trunc(), zero)[:, None, None]
        for kind, size in ((TRANSLATE_X, width), (TRANSLATE_Y, height))
    )
    x = torch.arange(width, device=levels.device) + 0.5
    y = (torch.arange(height, device=levels.device) + 0.5)[:, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    right, below = x - width / 2, y - height / 2
    turned_x = cos * right - sin * below + width / 2 + shear_x * y + across  # [n, h, w]
    turned_y = sin * right + cos * below + height / 2 + shear_y * x + down
    scale = on_device((2 / width, 2 / height), levels.device)
    grid = torch.stack([turned_x, turned_y], dim=3) * scale - 1
    found = grid_sample(
        levels, grid.to(levels.dtype), mode="bilinear", padding_mode="border", align_corners=False
    )
    inside = ((grid >= -1) & (grid < 1)).all(3)[:, None]
    # Pillow cuts off what is beyond the whole level; rounding of the positions is not to count.
    return torch.where(inside, (found + 1e-3).floor_(), _FILL)
