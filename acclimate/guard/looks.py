"""How images look, whatever a model says of them: five numbers of each, and what looks alike."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from acclimate.guard.named import Named
from acclimate.preprocessing import Preprocessing

LOOKS = ("brightness", "contrast", "colour", "sharpness", "share of sharpness in edges")
"""The numbers of an image, in this order."""
WIDTH = 0.3
"""Two streams look alike if their places are not further apart than about this. A stream whose mean
differs from the source's by 1.7 standard deviations in one number is at a distance of 1 from it."""
_TINY = 1e-3
_PART = 128  # images that are resized at a time
_FURTHEST = 20.0  # in standard deviations; beyond, one number would hide the others


def looks(
    images: UInt8[Tensor, "batch channels height width"]
    | Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch 5"]:
    """Compute the numbers of `LOOKS`, each from one image alone.

    Args:
        images: uint8 0..255 or floats 0..1, at least 3 pixels to each side.
    """
    unit = images.float() if images.is_floating_point() else images.float() / 255
    grey = unit.mean(1)  # [batch, height, width]
    middle = grey[:, 1:-1, 1:-1]
    across = grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    along = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1]
    laplacian = (4 * middle - across - along).abs().mean((1, 2)) + _TINY
    edges = grey.diff(dim=1).abs().mean((1, 2)) + grey.diff(dim=2).abs().mean((1, 2)) + _TINY
    colour = (unit.amax(1) - unit.amin(1)).mean((1, 2))
    brightness, contrast = grey.mean((1, 2)), grey.flatten(1).std(1)
    own = (brightness, contrast, colour, laplacian.log(), (laplacian / edges).log())
    return torch.stack(own, 1).nan_to_num(0.0)  # of an image that has no inner pixel


def looks_as_shown(
    images: UInt8[Tensor, "n channels height width"], preprocessing: Preprocessing
) -> Float[Tensor, "n 5"]:
    """`looks` of images at a network's input size, as the guard sees them; on the CPU.

    Sharpness and contrast depend on the size.

    ```python
    looks_as_shown(images, bundle.preprocessing)
    ```

    Args:
        images: Of any size that the network takes.
        preprocessing: Of the network.
    """
    return torch.cat([looks(preprocessing.unit(part)).cpu() for part in images.split(_PART)])


@dataclass(frozen=True)
class Places(Named):
    """Sets of images as points, by how they look: those that look alike lie close together."""

    mean: Float[Tensor, "5"]
    """Mean of `looks` of clean source images."""
    spread: Float[Tensor, "5"]
    """Their standard deviation."""
    of_sets: Float[Tensor, "sets 5"]
    """The place of each set, see `place`."""

    @classmethod
    def between(cls, source: Float[Tensor, "n 5"], sets: list[Float[Tensor, "m 5"]]) -> "Places":
        """The places of sets of images.

        Args:
            source: `looks` of clean source images.
            sets: `looks` of the images of each set.
        """
        mean, spread = source.mean(0), source.std(0, correction=0).clamp(min=_TINY)
        found = cls(mean, spread, mean[None])
        return cls(mean, spread, torch.stack([found.place(each.mean(0)) for each in sets]))

    def place(self, mean: Float[Tensor, "5"]) -> Float[Tensor, "5"]:
        """Distance to the source in each number: a signed logarithm, so that far is not too far.

        Args:
            mean: Mean of `looks` of some images.
        """
        away = ((mean - self.mean) / self.spread).clamp(-_FURTHEST, _FURTHEST)
        return away.sign() * away.abs().log1p()

    def alike(self, mean: Float[Tensor, "5"]) -> Float[Tensor, " sets"]:
        """How much images look like those of each set: 1 if they do in the mean, 0 if not at all.

        Args:
            mean: Mean of `looks` of the images.
        """
        away = (self.place(mean) - self.of_sets).square().sum(1)
        return (-away / (2 * WIDTH**2)).exp()
