"""Correction: what is done to the answer's logits in the end."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.parts.answer import Prediction


@dataclass(frozen=True)
class Uncorrected:
    """The logits as they are."""

    def build(self, classes: int, device: torch.device) -> "Uncorrected":
        """Nothing is kept."""
        return self

    def __call__(self, prediction: Prediction) -> Float[Tensor, "batch classes"]:
        """The logits."""
        return prediction.logits

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


Correction = Uncorrected
