"""Rotations by multiples of 90 degrees, the classes of the rotation task."""

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from acclimate.runtime.constants import kept


def rotate(
    images: Shaped[Tensor, "batch 3 side side"], turns: Int64[Tensor, " batch"]
) -> Shaped[Tensor, "batch 3 side side"]:
    """Rotate each square image counter-clockwise.

    ```python
    turns = torch.randint(4, (len(images),))
    rotated = rotate(images, turns)
    ```

    Args:
        images: Square images, any dtype.
        turns: Number of quarter turns of each image, 0..3.

    Returns:
        Images in channels_last layout.

    Raises:
        ValueError: the images are not square.
    """
    _check_square(images)
    if images.device.type != "cpu":
        return _rotate_together(images, turns)
    # Only the images of a turn are moved: on a CPU, less work than a gather.
    rotated = torch.empty_like(images, memory_format=torch.channels_last)
    for quarter in range(4):
        chosen = (turns == quarter).nonzero().squeeze(1)
        rotated[chosen] = torch.rot90(images[chosen], quarter, (2, 3))
    return rotated


def all_rotations(
    images: Shaped[Tensor, "batch 3 side side"],
) -> tuple[Shaped[Tensor, "4*batch 3 side side"], Int64[Tensor, " 4*batch"]]:
    """Every image in all four rotations: all images by 0 degrees, then all by 90 degrees, ...

    This is ``expand`` in the code of TTT.

    ```python
    rotated, turns = all_rotations(images)  # [4 batch, 3, side, side], [4 batch]
    ```

    Returns:
        The rotated images in channels_last layout, and the number of quarter turns of each.

    Raises:
        ValueError: the images are not square.
    """
    _check_square(images)
    rotated = torch.cat([torch.rot90(images, quarter, (2, 3)) for quarter in range(4)])
    turns = torch.arange(4, device=images.device).repeat_interleave(len(images))
    return rotated.contiguous(memory_format=torch.channels_last), turns


def _rotate_together(images: Tensor, turns: Tensor) -> Tensor:
    """`rotate` without waiting for a device: which images turn how far is read there alone."""
    channels, side = images.shape[1:3]
    places = _places(side, images.device).index_select(0, turns)  # [batch, side²]
    rotated = images.flatten(2).gather(2, places[:, None].expand(-1, channels, -1))
    return rotated.view_as(images).contiguous(memory_format=torch.channels_last)


@kept(20)
def _places(side: int, device: torch.device) -> Int64[Tensor, "4 pixels"]:
    """For each number of turns, the pixel that comes to each place; made on the CPU, once."""
    with torch.inference_mode(False):
        pixels = torch.arange(side * side).view(1, side, side)
        places = torch.cat([torch.rot90(pixels, turn, (1, 2)) for turn in range(4)])
        return places.flatten(1).to(device)


def _check_square(images: Tensor) -> None:
    height, width = images.shape[-2:]
    if height != width:
        raise ValueError(
            f"images of {height} x {width} cannot be rotated by 90 degrees: give square images."
        )
