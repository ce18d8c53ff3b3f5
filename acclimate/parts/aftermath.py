"""Aftermath: what follows each step, such as a teacher's average or a pull towards the source."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

from acclimate.parts.approach import approach
from acclimate.parts.checks import share
from acclimate.parts.kalman import KalmanFilter

Moving = Mapping[str, Tensor]


@dataclass(frozen=True)
class Teacher:
    """A second model, the exponential moving average of the adapted one (mean teacher)."""

    momentum: float = 0.999
    """Share of the teacher that stays in each step."""

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        share("momentum", self.momentum)

    def build(self, moving: Moving) -> "AverageTeacher":
        """A teacher that is the model as it is now."""
        return AverageTeacher(moving, 1 - self.momentum)


@dataclass(frozen=True)
class PullToSource:
    """After each step the weights go a small part of the way back to the source's.

    θ ← (1 − rate) θ + rate θ₀ (Marsden et al. 2024, *Universal test-time adaptation*, ROID's weight
    ensembling).
    """

    rate: float = 0.01
    """The part of the way."""

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        share("rate", self.rate)

    def build(self, moving: Moving) -> "SourcePull":
        """A pull to the weights as they are now."""
        return SourcePull(moving, self.rate)


Aftermath = Teacher | PullToSource | KalmanFilter


class AverageTeacher:
    """The averages of the moving parameters; all else is the adapted model's own.

    Args:
        moving: The parameters, by name; changed in place by the steps.
        rate: Share of the model that enters in each step.

    Attributes:
        copies: Tensors that are kept beside the state; none.
    """

    def __init__(self, moving: Moving, rate: float):
        self._moving, self._rate = moving, rate
        self._averages = {name: tensor.detach().clone() for name, tensor in moving.items()}
        self.copies: list[Tensor] = []

    def __call__(self, taken: Bool[Tensor, ""]) -> None:
        """Move towards the model, after a step that was taken."""
        approach(list(self._averages.values()), list(self._moving.values()), self._rate * taken)

    def logits(
        self, model: nn.Module, images: Float[Tensor, "batch 3 h w"]
    ) -> Float[Tensor, "batch classes"]:
        """The teacher's logits of normalised images.

        Args:
            model: The adapted classifier.
            images: Normalised.
        """
        prefix = "model."
        names = {n.removeprefix(prefix): t for n, t in self._averages.items() if n[:6] == prefix}
        return functional_call(model, names, (images,))

    def state(self) -> dict[str, Tensor]:
        """The averages."""
        return dict(self._averages)


class SourcePull:
    """A pull of the moving parameters to their values when it was built.

    Args:
        moving: The parameters, by name; changed in place.
        rate: The part of the way that they go in each step.

    Attributes:
        copies: Tensors that are kept beside the state: the values to which the pull goes.
    """

    def __init__(self, moving: Moving, rate: float):
        self._moving = list(moving.values())
        self._rate = rate
        self.copies = [tensor.detach().clone() for tensor in self._moving]

    def __call__(self, taken: Bool[Tensor, ""]) -> None:
        """Pull, after a step that was taken."""
        approach(self._moving, self.copies, self._rate * taken)

    def state(self) -> dict[str, Tensor]:
        """Nothing: the source's values do not change."""
        return {}
