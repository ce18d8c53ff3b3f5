"""Images turned by multiples of 90 degrees: what the rotation task asks to be told apart."""

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor


def rotate(
    images: Shaped[Tensor, "batch 3 side side"], turns: Int64[Tensor, " batch"]
) -> Shaped[Tensor, "batch 3 side side"]:
    """Turn each square image counter-clockwise.

    Args:
        images: Square, any dtype.
        turns: Quarter turns of each, 0..3.

    Returns:
        Images in channels_last layout.

    Raises:
        ValueError: the images are not square.
    """
    _check_square(images)
    turned = torch.empty_like(images, memory_format=torch.channels_last)
    for quarter in range(4):
        chosen = (turns == quarter).nonzero().squeeze(1)
        turned[chosen] = torch.rot90(images[chosen], quarter, (2, 3))
    return turned


def all_rotations(
    images: Shaped[Tensor, "batch 3 side side"],
) -> tuple[Shaped[Tensor, "4*batch 3 side side"], Int64[Tensor, " 4*batch"]]:
    """Every image in all four rotations, TTT's ``expand``: all by 0, then all by 90 degrees, ...

    Returns:
        The images in channels_last layout, and each one's quarter turns.

    Raises:
        ValueError: the images are not square.
    """
    _check_square(images)
    turned = torch.cat([torch.rot90(images, quarter, (2, 3)) for quarter in range(4)])
    turns = torch.arange(4, device=images.device).repeat_interleave(len(images))
    return turned.contiguous(memory_format=torch.channels_last), turns


def _check_square(images: Tensor) -> None:
    height, width = images.shape[-2:]
    if height != width:
        raise ValueError(f"only square images can be turned, not {height} x {width}.")
