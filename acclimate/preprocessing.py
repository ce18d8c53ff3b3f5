"""Preprocessing: resize, crop and normalise images as the network's training did."""

import math
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from acclimate.errors import InputError
from acclimate.resizing import (
    OF_TENSORS,
    Interpolation,
    Mode,
    Rounding,
    Side,
    both,
    canonical,
    crop_image,
    crop_tensor,
    offset,
    resize_tensor,
    resized,
    words,
)
from acclimate.runtime.constants import on_device

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_PIL_MODES = {1: "L", 3: "RGB"}
# Resizing and half precision leave values a little outside 0..1.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre-crop and normalise images. Every bundle has one.

    ```python
    small = Preprocessing(32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    inputs = small(images)  # uint8 or 0..1 images -> [batch, 3, 32, 32], normalised
    photographs = Preprocessing(224, resize=256, interpolation="bicubic")
    ```

    Images that have the network's input size already are not resized or cropped.

    Raises:
        InputError: a size below 1, a standard deviation of 0 or less, a value that is not finite,
            not as many means as standard deviations, or an unknown mode or interpolation.
    """

    size: Side
    """Height and width of the network's input, in pixels; a single number is a square."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Mean of each channel, in units of 0..1. There are as many as the network has input channels.
    """
    std: tuple[float, ...] = IMAGENET_STD
    """Standard deviation of each channel, in units of 0..1."""
    resize: Side | None = None
    """Height and width that `mode` resizes to before the centre is cropped; None takes `size`."""
    mode: Mode = "crop"
    """How images are resized. ``"crop"`` keeps their shape and covers `resize`; ``"squash"``
    stretches them to `resize`; ``"border"`` keeps their shape, fits them into `resize` and fills
    the rest with the mean; ``"none"`` does not resize."""
    interpolation: Interpolation = "bilinear"
    """Interpolation of resizing, antialiased except nearest. Tensors can only be resized with
    nearest, bilinear and bicubic."""
    rounding: Rounding = "nearest"
    """How the crop's position is rounded if the margin is odd: to the nearest even pixel, as
    torchvision and timm do, or down, as transformers does."""

    def __post_init__(self) -> None:
        try:
            for name in ("mean", "std"):
                object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
            for name in ("size", "resize"):
                object.__setattr__(self, name, canonical(getattr(self, name)))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"preprocessing has a {name} of {getattr(self, name)!r}; give one or two whole "
                f"numbers for a size, and one number per channel for mean and std."
            ) from error
        sides = (*both(self.size), *both(1 if self.resize is None else self.resize))
        statistics = (*self.mean, *self.std)
        finite = all(map(math.isfinite, statistics))
        if min(sides) < 1 or min(self.std, default=0) <= 0 or not finite:
            raise InputError(
                f"preprocessing needs sizes of at least 1 pixel, finite means and standard "
                f"deviations above 0, not {self.size}, {self.resize}, {self.mean} and {self.std}."
            )
        if len(self.mean) != len(self.std):
            raise InputError(
                f"{len(self.mean)} means and {len(self.std)} standard deviations were given; give "
                f"one of each per channel."
            )
        choices = {self.mode: Mode, self.interpolation: Interpolation, self.rounding: Rounding}
        for value, kinds in choices.items():
            if value not in get_args(kinds):
                known = ", ".join(get_args(kinds))
                raise InputError(f"preprocessing does not know {value!r}; it knows {known}.")

    @property
    def height(self) -> int:
        """Height of the network's input in pixels."""
        return both(self.size)[0]

    @property
    def width(self) -> int:
        """Width of the network's input in pixels."""
        return both(self.size)[1]

    @property
    def channels(self) -> int:
        """Number of input channels."""
        return len(self.mean)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels: the shape of one image of the network's input."""
        return self.height, self.width, self.channels

    @property
    def pixels(self) -> tuple[object, ...]:
        """Everything that the pixels of a decoded image depend on.

        Preprocessings with equal ``pixels`` differ at most in their normalisation.
        """
        to = None if self.mode == "none" else self._to
        return (self.channels, self.size, to, self.mode, self.interpolation, self.rounding) + (
            self._fill or ()
        )

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image after resizing, before the crop."""
        return resized(height, width, self._to, self.mode)

    def unit(
        self, images: UInt8[Tensor, "batch channels h w"] | Float[Tensor, "batch channels h w"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Images as float32 in 0..1, at the network's input size.

        Images of other sizes are resized and centre-cropped, with the sizes and positions of
        `crop`. The values differ from Pillow's by rounding.

        Args:
            images: uint8 0..255 or float 0..1.

        Raises:
            InputError: the images have another size, and tensors cannot be resized with the
                interpolation.
        """
        if images.shape[-2:] != (self.height, self.width):
            if self.mode != "none" and self.interpolation not in OF_TENSORS:
                raise InputError(
                    f"tensors cannot be resized with {self.interpolation}; give tensors of "
                    f"{self.height} x {self.width} pixels, or image files."
                )
            to = self.resized(*images.shape[-2:])
            images = resize_tensor(images, to, self.interpolation)
            images = crop_tensor(images, *self._corner(*to), both(self.size), self._fill)
        if images.dtype == torch.uint8:
            return images.float() / 255
        return images.float().clamp(0, 1)

    def crop(self, image: Image.Image) -> Image.Image:
        """Resize and centre-crop an 8-bit image, with Pillow.

        ```python
        pixels = preprocessing.crop(Image.open("cat.jpg").convert("RGB"))
        ```

        Returns:
            An image of the network's input size, grey if the network has one input channel.

        Raises:
            InputError: the network takes neither grey nor RGB images.
        """
        if self.channels not in _PIL_MODES:
            raise InputError(
                f"images have 1 or 3 channels, and this network takes {self.channels}; give "
                f"tensors or a .npy array of {self.height} x {self.width} pixels."
            )
        if image.mode != _PIL_MODES[self.channels]:  # else it would be copied
            image = image.convert(_PIL_MODES[self.channels])
        height, width = self.resized(image.height, image.width)
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        return crop_image(image, *self._corner(height, width), both(self.size), self._fill)

    def normalize(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Subtract the mean and divide by the standard deviation, in channels_last layout."""
        batch, channels, height, width = images.shape
        # Broadcasting over an innermost axis of size 3 is slow; over whole rows it is fast.
        rows = images.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
        mean = on_device(tuple(self.mean), images.device, images.dtype).repeat(width)
        std = on_device(tuple(self.std), images.device, images.dtype).repeat(width)
        normalized = (rows - mean) / std
        return normalized.view(batch, height, width, channels).permute(0, 3, 1, 2)

    def __call__(self, images: Tensor) -> Float[Tensor, "batch channels height width"]:
        """Apply `unit`, then `normalize`."""
        return self.normalize(self.unit(images))

    def __str__(self) -> str:
        resize = f"resize {words(self._to)} {self.interpolation}"
        if self.mode in ("squash", "border"):
            resize += f" ({self.mode})"
        steps = [] if self.mode == "none" else [resize]
        mean, std = (" ".join(f"{x:.4g}" for x in each) for each in (self.mean, self.std))
        return ", ".join([*steps, f"crop {words(self.size)}", f"mean {mean}", f"std {std}"])

    @classmethod
    def fit(cls, images: UInt8[Tensor, "n channels h w"], limit: int = 10_000) -> "Preprocessing":
        """Compute size, mean and standard deviation from source images.

        Args:
            images: Images, 0..255.
            limit: Number of images that mean and standard deviation are computed from, evenly
                spaced.
        """
        sample = evenly_spaced(images, limit).float().div_(255)
        mean, std = sample.mean((0, 2, 3)).tolist(), sample.std((0, 2, 3)).tolist()
        height, width = images.shape[-2:]
        return cls((height, width), tuple(mean), tuple(max(s, 1e-3) for s in std))

    @property
    def _to(self) -> Side:
        return self.resize or self.size

    @property
    def _fill(self) -> tuple[int, ...] | None:
        """Colour of the border; None is black."""
        if self.mode != "border":
            return None
        return tuple(min(max(round(255 * mean), 0), 255) for mean in self.mean)

    def _corner(self, height: int, width: int) -> tuple[int, int]:
        """Top and left of the crop."""
        rows, columns = both(self.size)
        return offset(height, rows, self.rounding), offset(width, columns, self.rounding)


def evenly_spaced(images: Tensor, limit: int) -> Tensor:
    """At most ``limit`` images, evenly spaced: a data set may be sorted by class."""
    if len(images) <= limit:
        return images
    return images[torch.arange(limit) * len(images) // limit]


def check_images(images: Tensor, channels: int = 3) -> None:
    """Raise an error unless the argument is a batch of images.

    Args:
        images: What is checked.
        channels: Number of input channels of the network.

    Raises:
        InputError: not a ``[batch, channels, height, width]`` tensor of at least one image, neither
            uint8 nor float, or float with NaN, infinity or values outside 0..1.
    """
    if not isinstance(images, Tensor):
        raise InputError(f"images must be a torch.Tensor, not {type(images).__name__}.")
    if images.ndim != 4 or images.shape[1] != channels or 0 in images.shape:
        hint = "; repeat a grey channel three times" if channels == 3 else ""
        raise InputError(
            f"images must be [batch, {channels}, height, width] with at least one image, not "
            f"{list(images.shape)}{hint}."
        )
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise InputError(f"images must be uint8 (0..255) or float (0..1), not {images.dtype}.")
    low, high = (x.item() for x in images.aminmax())
    if not (low == low and high == high and abs(low) + abs(high) < float("inf")):
        raise InputError("images hold NaN or infinity; drop these images or fix their loading.")
    tolerance = max(_TOLERANCE, torch.finfo(images.dtype).eps)
    if low < -tolerance or high > 1 + tolerance:
        raise InputError(
            f"float images must lie in 0..1, not {low:.3g}..{high:.3g}; pass images that are not "
            f"normalised, or uint8 images."
        )
