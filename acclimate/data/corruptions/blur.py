"""Corruptions by an optical system: a weighted mean over neighbouring pixels."""

import math

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor
from torch.nn import functional

from acclimate.data.corruptions.pixels import Draws, round_levels, to_levels, to_unit


def defocus_blur(
    images: UInt8[Tensor, "n 3 h w"], constant: tuple[float, float], scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """A lens out of focus: each point becomes a disk.

    ``constant`` is the disk's radius and the standard deviation of the blur that softens its rim,
    in pixels of the published size.
    """
    kernel = _disk(*constant, scale)
    reach = len(kernel) // 2
    height, width = images.shape[2:]
    padded = functional.pad(to_unit(images), (reach,) * 4, mode="reflect")
    blurred = torch.zeros_like(images, dtype=torch.float32)
    for y, x in kernel.nonzero().tolist():
        blurred += padded[:, :, y : y + height, x : x + width] * kernel[y, x].item()
    return to_levels(blurred)


def motion_blur(
    images: UInt8[Tensor, "n 3 h w"], constant: tuple[float, float], scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """A moving camera: half a Gaussian along a line, at an angle of -45 to 45 degrees an image.

    Follows ImageMagick, which looks up the nearest pixel along the line and repeats the image's
    edge. ``constant`` is radius and standard deviation in pixels of the published size.
    """
    radius, deviation = (length * scale for length in constant)
    # Beyond five standard deviations the weights are nothing.
    taps = min(2 * math.ceil(radius) + 1, math.ceil(5 * deviation) + 1)
    distance = torch.arange(taps, dtype=torch.float64)
    weights = torch.exp(-(distance**2) / (2 * deviation**2))
    weights = (weights / weights.sum()).tolist()

    angle = torch.deg2rad(draws.uniform("angle", 1).double() * 90 - 45)  # [n, 1]
    distance = distance.to(angle)
    across, down = ((distance * f(angle) - 0.5).ceil().long() for f in (torch.cos, torch.sin))
    reach = taps - 1
    height, width = images.shape[2:]
    padded = functional.pad(images.float(), (0, reach, reach, reach), mode="replicate")
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # [n, 3, 2 reach + 1, taps, h, w]
    rows = torch.arange(len(images), device=images.device)
    blurred = torch.zeros_like(images, dtype=torch.float32)
    for tap, weight in enumerate(weights):
        blurred += windows[rows, :, down[:, tap] + reach, across[:, tap]].mul_(weight)
    return round_levels(blurred)


def _disk(radius: float, deviation: float, scale: float) -> Float32[Tensor, "side side"]:
    """A disk that sums to 1, its rim softened, resized from the published size to the image's.

    The kernel and not its radius is scaled: on the pixel grid a disk of radius 1 has five pixels,
    and one of radius 0.9 would have one.
    """
    half, window = (8, 1) if radius <= 8 else (math.ceil(radius), 2)
    line = torch.arange(-half, half + 1, dtype=torch.float64)
    disk = (line**2 + line[:, None] ** 2 <= radius**2).double()
    gauss = torch.exp(-(torch.arange(-window, window + 1.0).double() ** 2) / (2 * deviation**2))
    kernel = _convolve(disk / disk.sum(), gauss / gauss.sum())
    if scale != 1:
        side = 2 * round(half * scale) + 1
        kernel = functional.interpolate(
            kernel[None, None], (side, side), mode="bilinear", antialias=True
        )[0, 0]
    kernel = kernel / kernel.sum()
    kernel[kernel < 1e-6] = 0
    margin = int(min(kernel.amax(0).nonzero().min(), kernel.amax(1).nonzero().min()))
    return kernel[margin : len(kernel) - margin, margin : len(kernel) - margin].float()


def _convolve(
    image: Float[Tensor, "side side"], weights: Float[Tensor, "taps"]
) -> Float[Tensor, "side side"]:
    """A separable, symmetric convolution; the image is mirrored about its outermost pixels."""
    reach = len(weights) // 2
    padded = functional.pad(image[None, None], (reach,) * 4, mode="reflect")
    return functional.conv2d(padded, torch.outer(weights, weights)[None, None])[0, 0]
