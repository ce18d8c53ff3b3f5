"""Resize and crop images and tensors, with the sizes and positions of the common libraries."""

from operator import index
from typing import Literal, SupportsIndex

import torch
from jaxtyping import Shaped
from PIL import Image
from torch import Tensor

Side = int | tuple[int, int]
"""Height and width in pixels; a single number is a square."""
Mode = Literal["crop", "squash", "border", "none"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
Rounding = Literal["nearest", "down"]
OF_TENSORS = ("nearest", "bilinear", "bicubic")
"""Interpolations that tensors can be resized with."""


def both(side: Side) -> tuple[int, int]:
    """Height and width."""
    return (side, side) if isinstance(side, int) else side


def canonical(side: Side | SupportsIndex | list[int] | None) -> Side | None:
    """A square as one number, and a list (from JSON) as a tuple.

    Raises:
        TypeError: neither a whole number nor several.
        ValueError: not two numbers.
    """
    if side is None or isinstance(side, SupportsIndex):
        return None if side is None else index(side)
    height, width = map(index, side)
    return height if height == width else (height, width)


def words(side: Side) -> str:
    """The side as people write it: 224, or 256 x 128."""
    return "{} x {}".format(*side) if isinstance(side, tuple) else str(side)


def resized(height: int, width: int, to: Side, mode: Mode) -> tuple[int, int]:
    """Height and width of an image after resizing, before the crop.

    A shape that is kept is rounded as torchvision's ``Resize`` does if ``to`` is a square, and as
    timm's ``ResizeKeepRatio`` does otherwise.

    ```python
    resized(480, 641, 256, "crop")  # (256, 341)
    ```
    """
    if mode == "none":
        return height, width
    rows, columns = both(to)
    if mode == "squash":
        return rows, columns
    if mode == "crop" and rows == columns:
        shorter = min(height, width)
        return int(rows * height / shorter), int(rows * width / shorter)
    ratio = (min if mode == "crop" else max)(height / rows, width / columns)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def offset(length: int, crop: int, rounding: Rounding) -> int:
    """First row or column of a centre crop; below 0 where the image is padded.

    Args:
        length: Height or width of the image.
        crop: Height or width of the crop.
        rounding: ``"nearest"``, the rule of torchvision and timm, or ``"down"``, that of
            transformers.
    """
    if rounding == "down":
        return (length - crop) // 2
    return round((length - crop) / 2) if length >= crop else -((crop - length) // 2)


def crop_image(
    image: Image.Image, top: int, left: int, size: tuple[int, int], fill: tuple[int, ...] | None
) -> Image.Image:
    """Crop a box of a height and a width, black or of a given colour outside the image."""
    height, width = size
    if fill is None:
        return image.crop((left, top, left + width, top + height))
    canvas = Image.new(image.mode, (width, height), fill[0] if len(fill) == 1 else fill)
    canvas.paste(image, (-left, -top))
    return canvas


def resize_tensor(
    images: Shaped[Tensor, "batch channels h w"], size: tuple[int, int], how: Interpolation
) -> Shaped[Tensor, "batch channels height width"]:
    """Resize to a height and a width, antialiased; differs from Pillow by rounding.

    Nearest is Pillow's, which torchvision calls ``nearest-exact``.
    """
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resize

    if images.shape[-2:] == size:
        return images
    mode = InterpolationMode("nearest-exact" if how == "nearest" else how)
    return resize(images, list(size), interpolation=mode, antialias=True)


def crop_tensor(
    images: Shaped[Tensor, "batch channels h w"],
    top: int,
    left: int,
    size: tuple[int, int],
    fill: tuple[int, ...] | None,
) -> Shaped[Tensor, "batch channels height width"]:
    """Crop a box of a height and a width, as `crop_image` does."""
    height, width = size
    bottom, right = top + height, left + width
    inside = images[..., max(top, 0) : bottom, max(left, 0) : right]
    if inside.shape[-2:] == size:
        return inside
    colour = torch.tensor(fill or (0,), device=images.device)[:, None, None]
    if images.dtype != torch.uint8:
        colour = colour / 255
    canvas = images.new_empty((*images.shape[:-2], height, width))
    canvas[:] = colour
    rows, columns = max(-top, 0), max(-left, 0)
    canvas[..., rows : rows + inside.shape[-2], columns : columns + inside.shape[-1]] = inside
    return canvas
