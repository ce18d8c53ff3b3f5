"""Selection: which images a step learns from, and with what weight."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.objectives import Outcome
from acclimate.parts.diverse import CertainAndDiverse
from acclimate.parts.reliable import Reliable, ReliableAndNew, ReliableByShape


@dataclass(frozen=True)
class All:
    """Every image, with the same weight."""

    def build(self, classes: int, device: torch.device) -> "All":
        """Nothing is kept."""
        return self

    def __call__(self, outcome: Outcome) -> None:
        """No weights: the loss is the mean over images."""

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


Selection = All | CertainAndDiverse | Reliable | ReliableAndNew | ReliableByShape


def weighted_mean(
    losses: Float[Tensor, "*batch"], weights: Float[Tensor, " batch"] | None
) -> Float[Tensor, ""]:
    """The mean loss over the images that are learned from, each with its weight.

    Args:
        losses: One loss an image, or their mean already.
        weights: 0 leaves an image out, and it does not count in the mean; None weighs all alike.

    Returns:
        Σ weight · loss / number of images with a weight; 0 if there are none.
    """
    if weights is None:
        return losses.mean()
    chosen = weights != 0
    # Not a product alone: an image that is left out may have a loss that is not finite.
    return torch.where(chosen, weights * losses, 0).sum() / chosen.sum().clamp_min(1)
