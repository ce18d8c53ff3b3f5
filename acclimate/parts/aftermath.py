"""Aftermath: what follows each step, such as a teacher's average or a pull towards the source."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from acclimate.parts.approach import approach
from acclimate.parts.checks import share
from acclimate.parts.divergence import SensingTeacher
from acclimate.parts.kalman import KalmanFilter
from acclimate.parts.rounds import AverageOfTurns
from acclimate.parts.teacher import Moving, Teacher
from acclimate.randomness import key, uniform


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


@dataclass(frozen=True)
class Restore:
    """After each step each weight returns to the source's with a small probability (CoTTA).

    Wang et al. 2022, *Continual test-time domain adaptation*, § 3.3, stochastic restoration.
    """

    probability: float = 0.01
    """Probability with which a single weight returns."""
    seed: int = 0
    """Seed of the choice."""

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        share("probability", self.probability)

    def build(self, moving: Moving) -> "StochasticRestore":
        """A return to the weights as they are now."""
        return StochasticRestore(moving, self.probability, self.seed)


Aftermath = Teacher | SensingTeacher | PullToSource | KalmanFilter | Restore | AverageOfTurns


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
        self.copies: list[Tensor] = [tensor.detach().clone() for tensor in self._moving]

    def __call__(self, taken: Bool[Tensor, ""]) -> None:
        """Pull, after a step that was taken."""
        approach(self._moving, self.copies, self._rate * taken)

    def state(self) -> dict[str, Tensor]:
        """Nothing: the source's values do not change."""
        return {}


class StochasticRestore:
    """A return of random single weights to their values when it was built.

    Args:
        moving: The parameters, by name; changed in place.
        probability: With which a weight returns after a step.
        seed: Seed of the choice.

    Attributes:
        copies: Tensors that are kept beside the state: the values to which weights return.
    """

    def __init__(self, moving: Moving, probability: float, seed: int):
        self._moving = list(moving.values())
        self._probability = probability
        self._keys = [key(seed, "restore", name) for name in moving]
        self.copies: list[Tensor] = [tensor.detach().clone() for tensor in self._moving]
        # A tensor: each replay of a CUDA graph draws other numbers.
        self._steps = torch.zeros(1, dtype=torch.int64, device=self._moving[0].device)

    @torch.no_grad()
    def __call__(self, taken: Bool[Tensor, ""]) -> None:
        """Restore, after a step that was taken."""
        limit = self._probability * taken
        for number, (tensor, source) in enumerate(zip(self._moving, self.copies)):
            returns = self.numbers(number) < limit
            tensor.copy_(torch.where(returns, source, tensor))
        self._steps += taken

    def numbers(self, number: int) -> Float[Tensor, "..."]:
        """A uniform random number for each weight of a parameter; other ones for each step.

        Args:
            number: Place of the parameter among those that move.
        """
        shape = self.copies[number].shape
        return uniform(self._keys[number], self._steps, shape.numel()).view(shape)

    def state(self) -> dict[str, Tensor]:
        """How many steps there were."""
        return {"steps": self._steps}
