"""Colour operations on whole batches of RGB images in 0..1, with the arithmetic of torchvision."""

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.runtime.constants import on_device

# Luma weights of ITU-R BT.601, as torchvision rounds them.
_GREY = (0.2989, 0.587, 0.114)


def adjust_brightness(images: Tensor, factor: Float[Tensor, " batch"]) -> Tensor:
    """Multiply each image by its factor and clip to 0..1."""
    return (images * _column(factor)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Float[Tensor, " batch"]) -> Tensor:
    """Blend each image with the mean of its grey version and clip to 0..1."""
    return blend(images, factor, torch.zeros_like(factor), 1 - factor)


def adjust_saturation(images: Tensor, factor: Float[Tensor, " batch"]) -> Tensor:
    """Blend each image with its grey version and clip to 0..1."""
    return blend(images, factor, 1 - factor, torch.zeros_like(factor))


def blend(
    images: Tensor, own: Tensor, grey: Tensor, mean: Tensor, *, out: Tensor | None = None
) -> Tensor:
    """Weighted sum of each image, its grey version and the grey version's mean, clipped to 0..1."""
    other = luma(images)
    average = other.mean((1, 2, 3), keepdim=True)
    other.mul_(_column(grey)).add_(average * _column(mean))
    return torch.addcmul(other, images, _column(own), out=out).clamp_(0, 1)


def blend_in_few(images: Tensor, own: Tensor, grey: Tensor, mean: Tensor) -> Tensor:
    """`blend` in place, in the fewest kernels; where ``own`` is 1 and the others 0, an identity."""
    other = luma_in_few(images)
    average = other.mean((1, 2, 3)).mul_(mean)
    other = torch.addcmul(_column(average), other, _column(grey))
    return torch.addcmul(other, images, _column(own), out=images).clamp_(0, 1)


def adjust_hue(
    images: Tensor, shift: Float[Tensor, " batch"], *, out: Tensor | None = None
) -> Tensor:
    """Shift the hue of each image in HSV space by a share of the colour circle.

    Value V and chroma C do not change, so RGB follows from the shifted hue H, in sixths of the
    circle: with k(c) = max(0, min(1, |H − c| − 1)) and m = V − C, red is m + C·k(3), green
    V − C·k(2) and blue V − C·k(4). The hue is computed without a case for each largest channel:
    its angle to red is 1 + (G + B − R − m)/C, towards green where G ≥ B.
    """
    red, green, blue = images.unbind(1)  # [batch, h, w]
    least = torch.minimum(red, green)
    value = torch.maximum(red, green)
    torch.minimum(least, blue, out=least)
    torch.maximum(value, blue, out=value)
    chroma = value - least
    angle = (green - red).add_(blue - least).add_(chroma)
    angle.copysign_(green - blue)
    hue = torch.addcdiv(shift[:, None, None], angle, chroma.clamp_min(1e-12), value=1 / 6)
    hue.sub_(hue.floor()).mul_(6)
    if out is None:
        out = torch.empty_like(images)
    for channel, (start, centre, sign) in enumerate(
        ((least, 3, 1), (value, 2, -1), (value, 4, -1))
    ):
        k = (hue - centre).abs_().sub_(1).clamp_(0, 1)
        torch.addcmul(start, chroma, k, value=sign, out=out[:, channel])
    return out


def hue_in_few(images: Tensor, shift: Float[Tensor, " batch"]) -> Tensor:
    """`adjust_hue` in few kernels, each of all three channels where that is possible."""
    least, value = torch.aminmax(images, dim=1, keepdim=True)  # [batch, 1, h, w]
    chroma = value - least
    red, green, blue = images.split(1, dim=1)
    angle = (green - red).add_(blue - least).add_(chroma).copysign_(green - blue)
    hue = torch.addcdiv(_column(shift), angle, chroma.clamp_min(1e-12), value=1 / 6)
    hue.sub_(hue.floor()).mul_(6)
    centres, signs = (
        on_device(values, images.device)[:, None, None] for values in ((3, 2, 4), (1, -1, -1))
    )
    k = (hue - centres).abs_().sub_(1).clamp_(0, 1)
    return torch.where(signs > 0, least, value).addcmul_(chroma * signs, k)


def luma(images: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch 1 h w"]:
    """Grey version of RGB images; a copy of grey ones."""
    if images.shape[1] == 1:
        return images.clone()
    red, green, blue = images.split(1, dim=1)
    return (_GREY[0] * red).add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2])


def luma_in_few(images: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch 1 h w"]:
    """`luma` in the fewest kernels; of grey images these themselves."""
    if images.shape[1] == 1:
        return images
    return (images * on_device(_GREY, images.device)[:, None, None]).sum(1, keepdim=True)


def _column(factor: Tensor) -> Tensor:
    return factor[:, None, None, None]
