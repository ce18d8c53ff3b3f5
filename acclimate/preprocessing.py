"""Preprocessing: resize, centre-crop and normalise images for a network."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from acclimate.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre-crop and normalise images. Every bundle has one.

    ```python
    preprocessing = Preprocessing(32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    inputs = preprocessing(images)  # uint8 or 0..1 images -> [batch, 3, 32, 32], normalised
    ```

    Raises:
        InputError: a size below 1, a standard deviation of 0 or less, or a value that is not
            finite.
    """

    size: int
    """Side of the network's square input images, in pixels."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of each channel, in units of 0..1."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation of each channel, in units of 0..1."""

    def __post_init__(self):
        statistics = (*self.mean, *self.std)
        if self.size < 1 or min(self.std) <= 0 or not all(map(math.isfinite, statistics)):
            raise InputError(
                f"preprocessing needs a size of at least 1 pixel, finite means and standard "
                f"deviations above 0, not {self.size}, {self.mean} and {self.std}."
            )

    def unit(
        self, images: UInt8[Tensor, "batch 3 h w"] | Float[Tensor, "batch 3 h w"]
    ) -> Float[Tensor, "batch 3 size size"]:
        """Images as float32 in 0..1, at the network's input size.

        Images of other sizes are resized by their shorter side (bilinear, antialiased) and
        centre-cropped.

        Args:
            images: uint8 0..255 or float 0..1.
        """
        images = images.float() / (255 if images.dtype == torch.uint8 else 1)
        if images.shape[-2:] != (self.size, self.size):
            from torchvision.transforms.v2.functional import center_crop, resize

            images = center_crop(resize(images, [self.size], antialias=True), [self.size])
        return images

    def normalize(
        self, images: Float[Tensor, "batch 3 size size"]
    ) -> Float[Tensor, "batch 3 size size"]:
        """Subtract the mean and divide by the standard deviation, in channels_last layout."""
        batch, _, height, width = images.shape
        # Broadcasting over an innermost axis of size 3 is slow; over whole rows it is fast.
        rows = images.permute(0, 2, 3, 1).reshape(batch, height, width * 3)
        mean = images.new_tensor(self.mean).repeat(width)
        std = images.new_tensor(self.std).repeat(width)
        normalized = (rows - mean) / std
        return normalized.view(batch, height, width, 3).permute(0, 3, 1, 2)

    def __call__(self, images: Tensor) -> Float[Tensor, "batch 3 size size"]:
        """Apply `unit`, then `normalize`."""
        return self.normalize(self.unit(images))

    @classmethod
    def fit(cls, images: UInt8[Tensor, "n 3 h w"], limit: int = 10_000) -> "Preprocessing":
        """Compute size, mean and standard deviation from square source images.

        Args:
            images: Square images, 0..255.
            limit: Number of images that mean and standard deviation are computed from, evenly
                spaced.
        """
        sample = evenly_spaced(images, limit).float().div_(255)
        mean, std = sample.mean((0, 2, 3)).tolist(), sample.std((0, 2, 3)).tolist()
        return cls(images.shape[-1], tuple(mean), tuple(max(s, 1e-3) for s in std))  # type: ignore


def evenly_spaced(images: Tensor, limit: int) -> Tensor:
    """At most ``limit`` images, evenly spaced: a data set may be sorted by class."""
    if len(images) <= limit:
        return images
    return images[torch.arange(limit) * len(images) // limit]


def check_images(images: Tensor) -> None:
    """Raise an error unless the argument is a batch of images.

    Raises:
        InputError: not a ``[batch, 3, height, width]`` tensor of at least one image, neither uint8
            nor float, or float with NaN, infinity or values outside 0..1.
    """
    if not isinstance(images, Tensor):
        raise InputError(f"images must be a torch.Tensor, not {type(images).__name__}.")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise InputError(
            f"images must be [batch, 3, height, width] with at least one image, not "
            f"{list(images.shape)}; repeat a grey channel three times."
        )
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise InputError(f"images must be uint8 (0..255) or float (0..1), not {images.dtype}.")
    low, high = (x.item() for x in images.aminmax())
    if not (low == low and high == high and abs(low) + abs(high) < float("inf")):
        raise InputError("images hold NaN or infinity; drop these images or fix their loading.")
    if low < 0 or high > 1:
        raise InputError(
            f"float images must lie in 0..1, not {low:.3g}..{high:.3g}; pass images that are not "
            f"normalised, or uint8 images."
        )
