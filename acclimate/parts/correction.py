"""Correction: what is done to the answer's logits in the end."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.backbones import Classifier
from acclimate.parts.answer import Prediction
from acclimate.parts.laplacian import Laplacian
from acclimate.parts.shifted import Shifted
from acclimate.parts.supports import Supports


@dataclass(frozen=True)
class Uncorrected:
    """The logits as they are."""

    uses_batch: ClassVar[bool] = False
    needs_features: ClassVar[bool] = False

    def build(self, model: Classifier, device: torch.device) -> "Uncorrected":
        """Nothing is kept."""
        return self

    def __call__(self, prediction: Prediction) -> Float[Tensor, "batch classes"]:
        """The logits."""
        return prediction.logits

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


@dataclass(frozen=True)
class Prior:
    """The batch's own class frequencies as a prior of its predictions (Marsden et al. 2024, ROID).

    π is the mean prediction of the batch, smoothed to (π + s) / (1 + s C) with
    s = max(1/B, 1/C) / max π, for B images and C classes. Bayes' rule multiplies the
    *probabilities* by it. The release multiplies the *logits*, so that the effect of the prior has
    the sign of the logit. A single image keeps its prediction.
    """

    as_released: bool = False
    """Whether logits are multiplied, not probabilities: to reproduce published numbers only."""
    uses_batch: ClassVar[bool] = True
    needs_features: ClassVar[bool] = False

    def build(self, model: Classifier, device: torch.device) -> "Prior":
        """Nothing is kept."""
        return self

    def __call__(self, prediction: Prediction) -> Float[Tensor, "batch classes"]:
        """The corrected logits."""
        prior = smoothed_prior(prediction.logits)
        if self.as_released:
            return prediction.logits * prior
        return prediction.logits + prior.log()

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


def smoothed_prior(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, " classes"]:
    """The mean prediction of a batch, smoothed so that no class has a prior of 0.

    ```python
    probabilities = (logits + smoothed_prior(logits).log()).softmax(1)
    ```

    Args:
        logits: At least float32.
    """
    batch, classes = logits.shape
    prior = logits.softmax(1).mean(0)
    smooth = max(1 / batch, 1 / classes) / prior.max()
    return (prior + smooth) / (1 + smooth * classes)


Correction = Uncorrected | Prior | Laplacian | Shifted | Supports
