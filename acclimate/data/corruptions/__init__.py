"""Common corruptions (Hendrycks and Dietterich, ICLR 2019): batched, seeded, at every image size.

A corruption is one function ``(images, constant, scale, draws) -> images`` and one row of
`CORRUPTIONS`; its five severities are a row of `constants.CONSTANTS` for each image size that the
benchmark was published at: 32 (CIFAR-C), 64 (TinyImageNet-C) and 224 (ImageNet-C). Other sizes
take the constants of the nearest of these, with lengths in pixels scaled to the image.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64, UInt8
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

AMOUNTS = ("gaussian_noise", "impulse_noise", "speckle_noise")
"""Corruptions whose constant is an amount, 0 for none, so that there are severities in between.

Not shot noise, which is weaker the greater its constant: no number of photons means no noise. The
others' constants are whole numbers, kernels' shapes, or several numbers that do not all grow.
"""

# Values (images × channels × pixels) that are corrupted at once, which bounds the memory of a large
# batch: few enough for a CPU's cache, enough to keep a GPU busy.
_CHUNK_CPU, _CHUNK_GPU = 2**19, 2**24
# These work on bytes, and JPEG on one image after another in each thread: chunks can be larger.
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
    """`corrupt` for any images of a data set, in any order.

    Args:
        images: As for `corrupt`.
        name: A key of `CORRUPTIONS`.
        severity: 1 (mild) to 5 (severe).
        index: Which image of its data set each one is, on any device.
        seed: Another seed gives other random corruptions.

    Raises:
        InputError: as `corrupt`, or there are not as many indices as images.
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
    """Corrupt each image with a severity of its own, which may lie between the published ones.

    Constants are interpolated linearly; severity 0 leaves an image as it is. An image's random
    numbers are the same at all severities, so that its corruption grows steadily; they are not
    those of `corrupt`, which are drawn anew for each severity.

    Args:
        images: As for `corrupt`.
        name: One of `AMOUNTS`.
        severities: 0 (nothing) to 5 (severe), one an image.
        index: Which image of its data set each one is, on any device.
        seed: Another seed gives other random corruptions.

    Raises:
        InputError: as `corrupt`, a corruption that has only whole severities, or other numbers of
            severities or indices than of images.
    """
    check_images(images)
    if severities.shape != images.shape[:1]:
        raise InputError(
            f"{len(images)} images and severities of shape {list(severities.shape)}: "
            "give one severity an image."
        )
    for severity in severities.unique().tolist() or [0.0]:
        check_amount(name, severity)
    size, scale = _size(images)
    constants = _interpolated(CONSTANTS[name][size], severities)
    constants = constants.to(images.device, torch.float32)[:, None, None, None]
    # A severity that `corrupt` does not have, so that the two draw unrelated numbers.
    origin = seed, name, 0

    def corrupt_rows(chunk: Tensor, index: Tensor, rows: slice) -> Tensor:
        return CORRUPTIONS[name](chunk, constants[rows], scale, Draws(origin, index))

    return _in_chunks(name, images, index, corrupt_rows)


def check_severity(name: str, severity: int) -> None:
    """Refuse a corruption or a published severity that does not exist.

    Raises:
        InputError: with one sentence that says what there is.
    """
    if name not in CORRUPTIONS:
        raise unknown_name("corruption", name, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise InputError(f"severity {severity!r} does not exist: use a whole number from 1 to 5.")


def check_amount(name: str, severity: float) -> None:
    """Refuse a corruption that has no severities in between, or one outside 0..5.

    Raises:
        InputError: with one sentence that says what there is.
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
    """The published size whose constants are used, and the images' in units of it."""
    shorter = min(images.shape[2:])
    size = nearest_size(shorter)
    return size, shorter / size


def _interpolated(
    constants: Sequence[float], severities: Float[Tensor, " n"]
) -> Float64[Tensor, " n"]:
    """Constants of severities 0..5, linearly between the published ones."""
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
    """Corrupt a few images at a time; ``rows`` says which."""
    if index.shape != images.shape[:1]:
        raise InputError(
            f"{len(images)} images and indices of shape {list(index.shape)}: "
            "give one index an image."
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
    """Refuse what is not a batch of uint8 images.

    Raises:
        InputError: with the dtype and the shape that images have.
    """
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        given = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"images are {given}: give a torch tensor of uint8, 0..255.")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        hint = ", grey ones as images.expand(-1, 3, -1, -1)" if images.shape[1:2] == (1,) else ""
        raise InputError(
            f"images have shape {list(images.shape)}: give [n, 3, height, width]{hint}."
        )
