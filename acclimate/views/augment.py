"""Augmentations for supervised training, on whole batches: shifted crop, flip, cutout."""

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor
from torch.nn.functional import pad

from acclimate.randomness import Key, uniform
from acclimate.runtime.constants import on_device


def shifted_crop(
    images: Shaped[Tensor, "batch 3 h w"], padding: int, *, key: Key, index: Int64[Tensor, " batch"]
) -> Shaped[Tensor, "batch 3 h w"]:
    """Random crop of the zero-padded image and random horizontal flip.

    ```python
    views = shifted_crop(images, 4, key=key(seed, "crop", epoch), index=index)
    ```

    Args:
        images: Any dtype.
        padding: Width of the zero padding on each side in pixels, and so the largest shift.
        key: From `acclimate.randomness.key`.
        index: Index of each image in its data set.

    Returns:
        Images of the same size and dtype, in channels_last layout.
    """
    batch, _, height, width = images.shape
    numbers = uniform(key, index, 3)  # [batch, 3]
    shift = (numbers[:, :2] * (2 * padding + 1)).long()
    rows = torch.arange(height, device=images.device) + shift[:, :1]  # [batch, h]
    columns = torch.arange(width, device=images.device) + shift[:, 1:]
    columns = columns.flip(1).where(numbers[:, 2:] < 0.5, columns)
    padded = pad(images.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    which = torch.arange(batch, device=images.device)
    # [batch, h, w, 3]
    cropped = padded[which[:, None, None], rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)


def cutout(
    images: Shaped[Tensor, "batch 3 h w"], size: int, *, key: Key, index: Int64[Tensor, " batch"]
) -> Shaped[Tensor, "batch 3 h w"]:
    """Set a random square of each image to zero (DeVries & Taylor 2017, § 3).

    The square's centre may be any pixel, so the square may extend beyond the border. It is black,
    like the padding of `shifted_crop`; the paper fills it with the data's mean.

    ```python
    views = cutout(images, 8, key=key(seed, "cutout", epoch), index=index)
    ```

    Args:
        images: Any dtype.
        size: Side of the square in pixels; 0 changes nothing.
        key: From `acclimate.randomness.key`.
        index: Index of each image in its data set.
    """
    height, width = images.shape[-2:]
    extent = on_device((height, width), images.device, torch.int64)
    first = (uniform(key, index, 2) * extent).long() - size // 2  # [batch, 2]
    rows = torch.arange(height, device=images.device) - first[:, :1]  # [batch, h]
    columns = torch.arange(width, device=images.device) - first[:, 1:]
    hidden = ((rows >= 0) & (rows < size))[:, :, None] & ((columns >= 0) & (columns < size))[
        :, None
    ]
    return images.clone().masked_fill_(hidden[:, None], 0)  # a clone keeps the memory layout
