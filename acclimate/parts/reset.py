"""Reset: when all that was learned is forgotten."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from jaxtyping import Bool
from torch import Tensor

from acclimate.parts.checks import not_negative
from acclimate.parts.step import Step


class Forget(Protocol):
    """Takes everything that learning changes back to the source."""

    def __call__(self, when: Bool[Tensor, ""] | None = None) -> None:
        """Forget; with a flag only if it is set, which is not read but stays on its device."""


@dataclass(frozen=True)
class EachBatch:
    """Each batch starts from the source weights."""

    always: ClassVar[bool] = True

    def build(self, device: torch.device) -> "EachBatch":
        """Nothing is kept."""
        return self

    def before(self, forget: Forget) -> None:
        """Forget what earlier batches taught."""
        forget()

    def after(self, step: Step, forget: Forget) -> None:
        """Go on within the batch."""

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


@dataclass(frozen=True)
class Never:
    """Each batch starts from the last one's weights."""

    always: ClassVar[bool] = False

    def build(self, device: torch.device) -> "Never":
        """Nothing is kept."""
        return self

    def before(self, forget: Forget) -> None:
        """Go on."""

    def after(self, step: Step, forget: Forget) -> None:
        """Go on."""

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


@dataclass(frozen=True)
class AtLowLoss:
    """The weights are forgotten when the loss has become suspiciously low: all answers are alike.

    e ← 0.9 e + 0.1 · loss after each step, beginning with the first loss; e < threshold is the
    signal (Niu et al. 2023, *Towards stable test-time adaptation in dynamic wild world*, SAR). e is
    forgotten with the weights. In SAR's release it survives, so that one collapse resets the model
    for many batches.
    """

    threshold: float = 0.2
    """The loss below which all is forgotten, in nats; as published for 1,000 classes."""
    always: ClassVar[bool] = False

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        not_negative("threshold", self.threshold)

    def build(self, device: torch.device) -> "LossAverage":
        """No loss was seen yet."""
        return LossAverage(self.threshold, device)


Reset = EachBatch | Never | AtLowLoss


class LossAverage:
    """The moving average of the loss; see `AtLowLoss`.

    Args:
        threshold: Below it all is forgotten, this average too.
        device: Where the average is kept.
    """

    def __init__(self, threshold: float, device: torch.device):
        self.threshold = threshold
        # NaN: no loss was seen.
        self.average: Tensor = torch.full((), torch.nan, dtype=torch.float64, device=device)

    def before(self, forget: Forget) -> None:
        """Go on."""

    def after(self, step: Step, forget: Forget) -> None:
        """Note the loss of a step that was taken, and forget if the average is low."""
        kept = 0.9 * self.average + 0.1 * step.loss
        average = torch.where(self.average.isnan(), step.loss, kept)
        self.average.copy_(torch.where(step.taken, average, self.average))
        forget(self.average < self.threshold)

    def state(self) -> dict[str, Tensor]:
        """The average."""
        return {"average": self.average}
