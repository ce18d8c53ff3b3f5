"""Correction: T3A, a classifier of the features that were most certain so far."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import normalize

from acclimate.backbones import Classifier, class_weights
from acclimate.errors import InputError
from acclimate.objectives.entropy import entropies
from acclimate.parts.answer import Prediction
from acclimate.runtime.precision import at_least_float32

_MOST = 10_000
"""Supports of a class that may be kept."""


@dataclass(frozen=True)
class Supports:
    """Test-time template adjuster (Iwasawa and Matsuo 2021, T3A).

    Each class keeps the features with the lowest entropy among those that were predicted to be of
    it; the head's weights are the first. The logits are the inner products of the features with the
    classes' normalised sums of normalised supports. No parameter moves.
    """

    capacity: int = 20
    """Supports that each class keeps."""
    uses_batch: ClassVar[bool] = False
    needs_features: ClassVar[bool] = True

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        if not 1 <= self.capacity <= _MOST:
            raise InputError(f"capacity must be 1 to {_MOST}, not {self.capacity}.")

    def build(self, model: Classifier, device: torch.device) -> "SupportSet":
        """Supports that are the head's weights.

        Raises:
            InputError: the head has no weights for each class, as one linear layer has.
        """
        if class_weights(model.head) is None:
            raise InputError(
                f"the correction supports starts from the weights of a linear head, and this "
                f"head is a {type(model.head).__name__}; choose another method or correction."
            )
        return SupportSet(model.head, self.capacity)


class SupportSet:
    """The supports of each class, in tensors of a fixed size.

    Args:
        head: The classifier's, with a weight for each class.
        capacity: Supports that each class keeps.

    Attributes:
        features: The supports' features, normalised to length 1, each class's sorted by entropy;
            zeros where there is none.
        entropies: Their entropies; infinite where there is none.
    """

    def __init__(self, head: nn.Module, capacity: int):
        given = class_weights(head)
        assert given is not None
        weight = at_least_float32(given.detach())  # [classes, dim]
        classes, dim = weight.shape
        self.features: Tensor = weight.new_zeros(classes, capacity, dim)
        self.entropies: Tensor = weight.new_full((classes, capacity), torch.inf)
        self._join(head(weight).detach(), weight)

    def __call__(self, prediction: Prediction) -> Float[Tensor, "batch classes"]:
        """Logits of a batch, whose features join the supports first."""
        assert prediction.features is not None
        features = prediction.features.to(self.features.dtype)
        self._join(prediction.logits, features)
        centres = normalize(self.features.sum(1), dim=1)  # [classes, dim]
        return (features @ centres.T).to(prediction.logits.dtype)

    def state(self) -> dict[str, Tensor]:
        """The supports and their entropies."""
        return {"features": self.features, "entropies": self.entropies}

    @torch.no_grad()
    def _join(
        self, logits: Float[Tensor, "batch classes"], features: Float[Tensor, "batch dim"]
    ) -> None:
        """Let features compete for the places of the classes that they are predicted to be of."""
        classes, capacity, dim = self.features.shape
        labels: Int64[Tensor, " batch"] = logits.argmax(1)
        numbers = torch.arange(classes, device=logits.device)[:, None]  # [classes, 1]
        own = entropies(logits).to(self.entropies.dtype)
        given = torch.where(labels == numbers, own, torch.inf)  # [classes, batch]
        every = torch.cat([self.entropies, given], dim=1)  # [classes, capacity + batch]
        least, places = every.topk(capacity, largest=False)
        # Rows of all supports, class by class, then of the batch, then zeros.
        stored = classes * capacity
        rows = torch.where(
            places < capacity, numbers * capacity + places, places - capacity + stored
        )
        rows = torch.where(least.isfinite(), rows, stored + len(features))
        unit = normalize(features, dim=1)
        pool = torch.cat([self.features.flatten(0, 1), unit, unit.new_zeros(1, dim)])
        self.features.copy_(pool[rows.flatten()].view(classes, capacity, dim))
        self.entropies.copy_(least)
