"""Correction: features shifted by the source's mean less their own running mean (FOA)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.backbones import Classifier
from acclimate.parts.answer import Prediction
from acclimate.parts.checks import not_negative, share
from acclimate.runtime.precision import at_least_float32


@dataclass(frozen=True)
class Shifted:
    """Back-to-source activation shifting (Niu et al. 2024, FOA, § 3.2).

    logits = head(z + γ d), d = μ_source − μ, with the running mean μ of the batches before; after
    the answer μ ← (1 − α) μ + α μ_batch. There is no shift for the first batch, whose mean is the
    first μ.
    """

    strength: float = 1.0
    """γ, the share of the way back to the source."""
    momentum: float = 0.1
    """α, share of the batch's mean in the running mean."""
    uses_batch: ClassVar[bool] = False
    needs_features: ClassVar[bool] = True
    source_statistics: ClassVar[tuple[str, ...]] = ("moments",)

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        not_negative("strength", self.strength)
        share("momentum", self.momentum)

    def build(
        self, model: Classifier, device: torch.device, *, moments: Mapping[str, Tensor]
    ) -> "RunningShift":
        """A shift of nothing yet.

        Args:
            model: Its head answers for shifted features.
            device: Not used: the moments lie on it.
            moments: Moments of the source; the last layer's mean is used.
        """
        layers = sum(name.startswith("mean.") for name in moments)
        return RunningShift(model, moments[f"mean.{layers - 1}"], self.strength, self.momentum)


class RunningShift:
    """The shift and the running mean that it comes from; see `Shifted`.

    Args:
        model: Its head answers for shifted features.
        source: Mean of the source's features.
        strength: γ.
        momentum: α.

    Attributes:
        mean: Running mean of the features; NaN before the first batch.
    """

    def __init__(
        self, model: Classifier, source: Float[Tensor, " dim"], strength: float, momentum: float
    ):
        self._model, self._source = model, source
        self._strength, self._momentum = strength, momentum
        self.mean: Tensor = torch.full_like(source, torch.nan)

    @torch.no_grad()
    def __call__(self, prediction: Prediction) -> Float[Tensor, "batch classes"]:
        """Logits of a batch's shifted features; their mean enters the running mean then."""
        assert prediction.features is not None
        features = at_least_float32(prediction.features)
        seen = self.mean.isfinite()
        shift = torch.where(seen, self._source - self.mean, 0)
        logits = self._model.head((features + self._strength * shift).to(features.dtype))
        batch = features.mean(0).to(self.mean.dtype)
        self.mean.copy_(torch.where(seen, self.mean.lerp(batch, self._momentum), batch))
        return logits.to(prediction.logits.dtype)

    def state(self) -> dict[str, Tensor]:
        """The running mean."""
        return {"mean": self.mean}
