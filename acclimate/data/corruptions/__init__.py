"""Common corruptions (Hendrycks and Dietterich, ICLR 2019): batched, seeded, for any image size.

A corruption is a function ``(images, constant, scale, draws) -> images`` and a row of
`CORRUPTIONS`. `constants.CONSTANTS` holds its constants for five severities and for each image size
of the published benchmarks: 32 (CIFAR-C), 64 (TinyImageNet-C) and 224 (ImageNet-C). Images of other
sizes use the constants of the nearest size, with lengths in pixels scaled to the image.

On a GPU nothing waits for it after the first call, which copies constants there, but for these:
`jpeg_compression`, whose codec is the CPU's; the water of `spatter`, whose outline grows until it
no longer changes; and `corrupt_by_amount`, which checks the severities.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor

from acclimate.data.corruptions import (
    blur,
    defocus,
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

__all__ = [
    "AMOUNTS",
    "CONSTANTS",
    "CORRUPTIONS",
    "PUBLISHED",
    "SEVERITIES",
    "check_amount",
    "check_images",
    "check_severity",
    "corrupt",
    "corrupt_by_amount",
    "corrupt_numbered",
]

SEVERITIES = range(1, 6)

CORRUPTIONS: dict[str, Callable[[Tensor, Any, float, Draws], Tensor]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": defocus.defocus_blur,
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
    # The benchmark's extra four corruptions, for choosing settings.
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "spatter": spatter.spatter,
    "saturate": digital.saturate,
}

PUBLISHED = tuple(CORRUPTIONS)[:15]
"""The benchmark's 15 corruptions, on which results are reported."""

AMOUNTS = ("gaussian_noise", "impulse_noise", "speckle_noise")
"""Corruptions with fractional severities: their constant is an amount of noise, 0 for none.

Shot noise is not one of them: it gets weaker as its constant grows, and no constant means no noise.
The constants of the other corruptions are integers, shapes of kernels, or several numbers that do
not all grow with severity.
"""

# Values (images × channels × pixels) per chunk, to limit the memory of large batches: few enough
# for a CPU's cache, and enough to keep a GPU busy.
_CHUNK_CPU, _CHUNK_GPU = 2**19, 2**24
# Corruptions that compute on bytes, or JPEG one image at a time in each thread, use larger chunks.
_CHUNK_BYTES, _ON_BYTES = 2**22, ("pixelate", "jpeg_compression")


def corrupt(
    images: UInt8[Tensor, "n 3 height width"],
    name: str,
    severity: int,
    *,
    seed: int = 0,
    first_index: int = 0,
) -> UInt8[Tensor, "n 3 height width"]:
    """Corrupt a batch of images.

    ```python
    images = load("fashion-mnist-mini", "test").images
    foggy = corrupt(images, "fog", 3, seed=0)
    ```

    Image i of the batch has index ``first_index + i`` in its data set. Its random numbers are a
    function of that index, the seed, the corruption and the severity only, so the result does not
    depend on how the data set is split into batches.

    Args:
        images: uint8, 0..255, with any strides, on any device.
        name: A key of `CORRUPTIONS`.
        severity: 1 (mild) to 5 (severe).
        seed: Seed of the random numbers.
        first_index: Index of the first image in its data set.

    Returns:
        The corrupted images, contiguous, on the same device.

    Raises:
        InputError: the name is unknown, the severity is outside 1..5, or the images have another
            dtype or shape.
    """
    check_severity(name, severity)
    check_images(images)
    index = torch.arange(len(images), device=images.device) + first_index
    return corrupt_numbered(images, name, severity, index, seed=seed)


def corrupt_numbered(
    images: UInt8[Tensor, "n 3 height width"],
    name: str,
    severity: int,
    index: Int64[Tensor, " n"],
    *,
    seed: int = 0,
) -> UInt8[Tensor, "n 3 height width"]:
    """Corrupt images of a data set in any order; the result is that of `corrupt`.

    ```python
    corrupt_numbered(images[[7, 3]], "fog", 3, torch.tensor([7, 3]))
    ```

    Args:
        images: uint8, 0..255, with any strides, on any device.
        name: A key of `CORRUPTIONS`.
        severity: 1 (mild) to 5 (severe).
        index: Index of each image in its data set, on any device.
        seed: Seed of the random numbers.

    Raises:
        InputError: as `corrupt`, or the number of indices differs from the number of images.
    """
    check_severity(name, severity)
    check_images(images)
    size, scale = _size(images)
    constant = CONSTANTS[name][size][int(severity) - 1]
    origin = seed, name, int(severity)

    def corrupt_rows(chunk: Tensor, index: Tensor, rows: slice) -> Tensor:
        return CORRUPTIONS[name](chunk, constant, scale, Draws(origin, index))

    return _in_chunks(name, images, index, corrupt_rows)


def corrupt_by_amount(
    images: UInt8[Tensor, "n 3 height width"],
    name: str,
    severities: Float[Tensor, " n"],
    index: Int64[Tensor, " n"],
    *,
    seed: int = 0,
) -> UInt8[Tensor, "n 3 height width"]:
    """Corrupt each image at its own severity, which may be fractional.

    ```python
    severities = torch.linspace(0, 5, len(images))
    corrupt_by_amount(images, "gaussian_noise", severities, torch.arange(len(images)))
    ```

    Constants are interpolated linearly between the published ones; severity 0 changes nothing. An
    image has the same random numbers at all severities, so its corruption grows steadily. They
    differ from those of `corrupt`, which draws new ones for each severity.

    Args:
        images: uint8, 0..255, with any strides, on any device.
        name: One of `AMOUNTS`.
        severities: Severity of each image, 0 (no change) to 5 (severe).
        index: Index of each image in its data set, on any device.
        seed: Seed of the random numbers.

    Raises:
        InputError: as `corrupt`, or the corruption has no fractional severities, or the number of
            severities or indices differs from the number of images.
    """
    check_images(images)
    if severities.shape != images.shape[:1]:
        raise InputError(
            f"{len(images)} images and severities of shape {list(severities.shape)}: "
            "give one severity per image."
        )
    for severity in severities.unique().tolist() or [0.0]:
        check_amount(name, severity)
    size, scale = _size(images)
    constants = _interpolated(CONSTANTS[name][size], severities)
    constants = constants.to(images.device, torch.float32)[:, None, None, None]
    # Severity 0, which `corrupt` does not have, so that the random numbers are independent of its.
    origin = seed, name, 0

    def corrupt_rows(chunk: Tensor, index: Tensor, rows: slice) -> Tensor:
        return CORRUPTIONS[name](chunk, constants[rows], scale, Draws(origin, index))

    return _in_chunks(name, images, index, corrupt_rows)


def check_severity(name: str, severity: int) -> None:
    """Raise an error unless the corruption and the integer severity exist.

    Raises:
        InputError: names the valid corruptions or severities.
    """
    if name not in CORRUPTIONS:
        raise unknown_name("corruption", name, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise InputError(f"severity {severity!r} does not exist: use a whole number from 1 to 5.")


def check_amount(name: str, severity: float) -> None:
    """Raise an error unless the corruption has fractional severities and this one is in 0..5.

    Raises:
        InputError: names the valid corruptions or severities.
    """
    if name not in CORRUPTIONS:
        raise unknown_name("corruption", name, CORRUPTIONS)
    if name not in AMOUNTS:
        raise InputError(
            f"{name} has no severity {severity!r}: use a whole number from 1 to 5, "
            f"or one of {', '.join(AMOUNTS)}."
        )
    if not 0 <= severity <= SEVERITIES[-1]:
        raise InputError(f"severity {severity!r} does not exist: use a number from 0 to 5.")


def _size(images: Tensor) -> tuple[int, float]:
    """The published size whose constants are used, and the images' shorter side divided by it."""
    shorter = min(images.shape[2:])
    size = nearest_size(shorter)
    return size, shorter / size


def _interpolated(
    constants: Sequence[float], severities: Float[Tensor, " n"]
) -> Float64[Tensor, " n"]:
    """Constants for severities 0..5, linearly interpolated between the published ones."""
    knots = torch.tensor([0.0, *constants], dtype=torch.float64)
    severities = severities.cpu().double()
    below = severities.long().clamp_max(len(constants) - 1)
    return torch.lerp(knots[below], knots[below + 1], severities - below)


def _in_chunks(
    name: str,
    images: UInt8[Tensor, "n 3 height width"],
    index: Int64[Tensor, " n"],
    corrupt_rows: Callable[[Tensor, Tensor, slice], Tensor],
) -> UInt8[Tensor, "n 3 height width"]:
    """Corrupt the images in chunks; ``corrupt_rows`` gets images, indices and rows of a chunk."""
    if index.shape != images.shape[:1]:
        raise InputError(
            f"{len(images)} images and indices of shape {list(index.shape)}: "
            "give one index per image."
        )
    index = index.to(images.device)
    corrupted = torch.empty_like(images, memory_format=torch.contiguous_format)
    chunk_values = _CHUNK_CPU if images.device.type == "cpu" else _CHUNK_GPU
    if name in _ON_BYTES:
        chunk_values = _CHUNK_BYTES
    step = max(1, chunk_values // images.shape[1:].numel())
    for start in range(0, len(images), step):
        rows = slice(start, start + step)
        corrupted[rows] = corrupt_rows(images[rows], index[rows], rows)
    return corrupted


def check_images(images: Tensor) -> None:
    """Raise an error unless the argument is a batch of uint8 images.

    Raises:
        InputError: names the dtype and the shape that images must have.
    """
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        given = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"images are {given}: give a torch tensor of uint8, 0..255.")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        hint = "; expand grey images with images.expand(-1, 3, -1, -1)"
        hint = hint if images.shape[1:2] == (1,) else ""
        raise InputError(
            f"images have shape {list(images.shape)}: give [n, 3, height, width]{hint}."
        )
