"""Digital corruptions: brightness, contrast, saturation, resolution, JPEG compression."""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from acclimate.data.corruptions.pixels import Draws, round_levels, to_levels, to_unit
from acclimate.runtime.constants import on_device


def brightness(
    images: UInt8[Tensor, "n 3 h w"], constant: float, scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """Raise the value (V of HSV) by ``constant``; hue and saturation do not change."""
    fractions = to_unit(images)
    value = fractions.amax(1, keepdim=True)
    raised = (value + constant).clamp_(max=1)
    # At constant hue and saturation every channel is proportional to V; black becomes grey.
    return to_levels(torch.where(value > 0, fractions / value, 1).mul_(raised))


def contrast(
    images: UInt8[Tensor, "n 3 h w"], constant: float, scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """Multiply the difference to each channel's mean over the image by ``constant``."""
    height, width = images.shape[2:]
    total = images.sum((2, 3), keepdim=True, dtype=torch.int64)  # exact in any order
    mean = (total.double() / (255 * height * width)).float()
    return to_levels(to_unit(images).sub_(mean).mul_(constant).add_(mean))


def saturate(
    images: UInt8[Tensor, "n 3 h w"], constant: tuple[float, float], scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """Change the saturation (S of HSV) to ``factor * S + offset``; ``constant`` holds the two.

    A channel is V (1 - S p). The hue determines p, the channel's position between the largest
    channel (0) and the smallest (1). Grey pixels have hue 0, red, so an offset tints them red.
    """
    factor, offset = constant
    fractions = to_unit(images)
    value = fractions.amax(1, keepdim=True)
    chroma = value - fractions.amin(1, keepdim=True)
    red = on_device((0.0, 1.0, 1.0), images.device)[:, None, None]
    position = torch.where(chroma > 0, (value - fractions) / chroma, red)
    saturation = torch.where(chroma > 0, chroma / value, 0)
    saturation = saturation.mul_(factor).add_(offset).clamp_(max=1)
    return to_levels(position.mul_(saturation).neg_().add_(1).mul_(value))


def pixelate(
    images: UInt8[Tensor, "n 3 h w"], constant: float, scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """Resize by the factor ``constant`` and back, both with Pillow's box filter."""
    height, width = images.shape[2:]
    small = max(1, int(height * constant)), max(1, int(width * constant))
    device = images.device
    down, across = _nearest(small[0], height, device), _nearest(small[1], width, device)
    return _shrink(images, small).index_select(3, across).index_select(2, down)


def jpeg_compression(
    images: UInt8[Tensor, "n 3 h w"], constant: int, scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """Encode as JPEG of quality ``constant``, with 4:2:0 chroma subsampling, and decode.

    Torchvision's codec gives the same pixels as Pillow's and is faster on small images.
    """
    from torchvision.io import decode_jpeg, encode_jpeg  # imported here because it takes seconds

    def compress(part: Tensor) -> Tensor:
        return torch.stack([*decode_jpeg([*encode_jpeg([*part], constant)])])

    parts = [part for part in images.cpu().tensor_split(torch.get_num_threads()) if len(part)]
    with ThreadPoolExecutor(len(parts)) as pool:
        return torch.cat([*pool.map(compress, parts)]).to(images.device)


def _shrink(
    images: UInt8[Tensor, "n 3 h w"], size: tuple[int, int]
) -> UInt8[Tensor, "n 3 height width"]:
    """Pillow's BOX filter: columns first, then rows, rounded to bytes in between."""
    for axis, length in ((3, size[1]), (2, size[0])):
        places, covered = _boxes(images.shape[axis], length, images.device)
        along = (-1,) if axis == 3 else (-1, 1)
        total = 0
        for place, inside in zip(places, covered):
            total += images.index_select(axis, place).short().mul_(inside.view(along))
        images = round_levels(total / covered.sum(0).view(along))
    return images


@lru_cache(maxsize=100)
def _boxes(
    old: int, new: int, device: torch.device
) -> tuple[Int64[Tensor, "most new"], Bool[Tensor, "most new"]]:
    """The old pixels that each new pixel averages: their indices, and which of these count.

    New pixels may average different numbers of old ones, so the last rows may not count.
    """
    ratio = old / new
    centre = (torch.arange(new, dtype=torch.float64) + 0.5) * ratio
    support = max(ratio, 1) / 2
    first = (centre - support + 0.5).long().clamp_(min=0)
    last = (centre + support + 0.5).long().clamp_(max=old)
    # Pillow rounds the ends like this, then drops pixels on or beyond the edges of the box.
    first = first + ((first + 0.5 - centre) / support <= -1)
    last = last - ((last - 0.5 - centre) / support > 1).long()
    place = first + torch.arange(int((last - first).max()))[:, None]
    return place.clamp(max=old - 1).to(device), (place < last).to(device)


def _nearest(old: int, new: int, device: torch.device) -> Int64[Tensor, " new"]:
    """The old pixel that contains each pixel of an enlarged axis."""
    return ((torch.arange(new, device=device, dtype=torch.float64) + 0.5) * (old / new)).long()
