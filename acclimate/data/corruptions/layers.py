"""Layers that are added to an image: made at the published size, then resized to the image."""

import torch
from jaxtyping import Float32, Float64, UInt8
from torch import Tensor


def published_shape(images: UInt8[Tensor, "n 3 h w"], scale: float) -> tuple[int, int]:
    """Height and width that the images would have if their shorter side had the published size."""
    height, width = images.shape[2:]
    return round(height / scale), round(width / scale)


def fit(
    layer: Float32[Tensor, "n height width"], images: UInt8[Tensor, "n 3 h w"]
) -> Float32[Tensor, "n h w"]:
    """Resize a layer to the size of the images, by linear interpolation."""
    for axis in (1, 2):
        old, new = layer.shape[axis], images.shape[axis + 1]
        if old != new:
            centres = torch.arange(new, dtype=torch.float64, device=layer.device) + 0.5
            layer = sample(layer, axis, (centres * (old / new) - 0.5).clamp_(0, old - 1))
    return layer


def sample(
    layer: Float32[Tensor, "n h w"], axis: int, places: Float64[Tensor, " length"]
) -> Float32[Tensor, "n ..."]:
    """Sample a layer at positions along one axis by linear interpolation; centres are 0, 1, ..."""
    below = places.floor()
    above = (below + 1).clamp_(max=layer.shape[axis] - 1)
    weight = (places - below).float()
    weight = weight[:, None] if axis == 1 else weight
    first, second = (layer.index_select(axis, line.long()) for line in (below, above))
    return first.mul_(1 - weight).add_(second.mul_(weight))
