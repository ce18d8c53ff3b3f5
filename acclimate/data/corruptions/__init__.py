"""Common corruptions (Hendrycks and Dietterich, ICLR 2019): batched, seeded, at every image size.

A corruption is one function ``(images, constant, scale, draws) -> images`` and one row of
`CORRUPTIONS`; its five severities are a row of `constants.CONSTANTS` for each image size that the
benchmark was published at: 32 (CIFAR-C), 64 (TinyImageNet-C) and 224 (ImageNet-C). Other sizes
take the constants of the nearest of these, with lengths in pixels scaled to the image.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from acclimate.data.corruptions import (
    blur,
    digital,
    frost,
    geometry,
    noise,
    spatter,
    weather,
)
from acclimate.data.corruptions.constants import CONSTANTS, nearest_size
from acclimate.data.corruptions.pixels import Draws
from acclimate.errors import InputError, unknown_name

__all__ = ["CONSTANTS", "CORRUPTIONS", "PUBLISHED", "SEVERITIES", "corrupt"]

SEVERITIES = range(1, 6)

CORRUPTIONS: dict[str, Callable[[Tensor, Any, float, Draws], Tensor]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": frost.frost,
    "fog": weather.fog,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
    "elastic_transform": geometry.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    # The benchmark's extra four, meant for choosing settings.
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "spatter": spatter.spatter,
    "saturate": digital.saturate,
}

PUBLISHED = tuple(CORRUPTIONS)[:15]
"""Those that results are reported on."""

# Values (images × channels × pixels) that are corrupted at once, which bounds the memory of a large
# batch: few enough for a CPU's cache, enough to keep a GPU busy.
_CHUNK_CPU, _CHUNK_GPU = 2**18, 2**24
# An image at a time goes through the codec, in threads: a chunk is to have many images.
_CHUNK_CODEC = 2**22


def corrupt(
    images: UInt8[Tensor, "n 3 height width"],
    name: str,
    severity: int,
    *,
    seed: int = 0,
    first_index: int = 0,
) -> UInt8[Tensor, "n 3 height width"]:
    """Corrupt a batch of images.

    Image i of the batch is taken to be image ``first_index + i`` of its data set. Its randomness is
    a function of that index, the seed, the name and the severity only, so that a data set is
    corrupted alike in whatever batches it comes.

    Args:
        images: uint8, 0..255, with any strides, on any device.
        name: A key of `CORRUPTIONS`.
        severity: 1 (mild) to 5 (severe).
        seed: Another seed gives other random corruptions.
        first_index: Index of the first image in its data set.

    Returns:
        The corrupted images, contiguous, on the same device.

    Raises:
        InputError: unknown name, severity outside 1..5, or images of another dtype or shape.
    """
    if name not in CORRUPTIONS:
        raise unknown_name("corruption", name, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise InputError(f"severity {severity!r} does not exist: use a whole number from 1 to 5.")
    _check(images)
    height, width = images.shape[2:]
    shorter = min(height, width)
    size = nearest_size(shorter)
    constant = CONSTANTS[name][size][int(severity) - 1]

    corrupted = torch.empty_like(images, memory_format=torch.contiguous_format)
    chunk_values = _CHUNK_CPU if images.device.type == "cpu" else _CHUNK_GPU
    chunk_values = _CHUNK_CODEC if name == "jpeg_compression" else chunk_values
    step = max(1, chunk_values // (3 * height * width))
    for start in range(0, len(images), step):
        chunk = images[start : start + step]
        index = torch.arange(len(chunk), device=images.device) + (first_index + start)
        draws = Draws((seed, name, int(severity)), index)
        corrupted[start : start + step] = CORRUPTIONS[name](chunk, constant, shorter / size, draws)
    return corrupted


def _check(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        given = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"images are {given}: give a torch tensor of uint8, 0..255.")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        shape = list(images.shape)
        raise InputError(f"images have shape {shape}: give [n, 3, height, width].")
