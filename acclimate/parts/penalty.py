"""Penalty: what is added to the loss of a step, such as for leaving the source weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.errors import InputError
from acclimate.parts.checks import not_negative


@dataclass(frozen=True)
class Unpenalised:
    """The loss alone."""

    def build(self, moving: Mapping[str, Tensor]) -> "Unpenalised":
        """Nothing is kept."""
        return self

    @property
    def copies(self) -> list[Tensor]:
        """Nothing."""
        return []

    def __call__(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The loss."""
        return loss

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


@dataclass(frozen=True)
class FisherPenalty:
    """Leaving the source weights costs more where the source's loss depends on a weight.

    β Σ F (θ − θ₀)², with F measured on source images (Niu et al. 2022, *Efficient test-time model
    adaptation without forgetting*, EATA; `acclimate.source.statistics.fisher_weights`).
    """

    weight: float = 2000.0
    """β, EATA's for ImageNet."""
    source_statistics: ClassVar[tuple[str, ...]] = ("fisher",)

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        not_negative("weight", self.weight)

    def build(self, moving: Mapping[str, Tensor], *, fisher: Mapping[str, Tensor]) -> "Anchored":
        """The penalty around the weights as they are now.

        Args:
            moving: The parameters, by name.
            fisher: F by the name of the parameter in the model.

        Raises:
            InputError: a parameter moves that has no F.
        """
        importance = {f"model.{name}": value for name, value in fisher.items()}
        for name in moving:
            if name not in importance:
                raise InputError(
                    f"the Fisher penalty knows nothing of {name.removeprefix('model.')!r}: Fisher "
                    f"weights are measured for normalisation layers; set update.parameters to norm."
                )
        return Anchored(moving, importance, self.weight)


@dataclass(frozen=True)
class DivergencePenalty:
    """Turning away from the source weights costs more, the further features have drifted (PeTTA).

    γ λ₀ R(θ), where R is the mean over parameters of −cos(θ, θ₀), and γ the divergence that a
    `acclimate.parts.divergence.SensingTeacher` measures (Hoang et al. 2024, *Persistent test-time
    adaptation in recurring testing scenarios*).
    """

    weight: float = 10.0
    """λ₀."""
    squared: bool = False
    """Whether R is the mean of ‖θ − θ₀‖² instead."""

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        not_negative("weight", self.weight)

    def build(self, moving: Mapping[str, Tensor]) -> "Turned":
        """The penalty around the weights as they are now.

        Args:
            moving: The parameters, by name.
        """
        return Turned(moving, self)


Penalty = Unpenalised | FisherPenalty | DivergencePenalty


class Anchored:
    """A weighted squared distance of the moving parameters from their values when it was built.

    Args:
        moving: The parameters, by name; changed in place by the steps.
        importance: F of each, of the parameter's shape.
        weight: β.

    Attributes:
        copies: Tensors that are kept beside the state: F and the source's values, each in one.
    """

    def __init__(
        self, moving: Mapping[str, Tensor], importance: Mapping[str, Tensor], weight: float
    ):
        self._moving = list(moving.values())
        self._weight = weight
        dtype = self._moving[0].dtype
        self.copies: list[Tensor] = [
            torch.cat([importance[name].reshape(-1) for name in moving]).to(dtype),
            torch.cat([tensor.detach().reshape(-1) for tensor in self._moving]),
        ]

    def __call__(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The loss with the penalty."""
        importance, source = self.copies
        now = torch.cat([tensor.reshape(-1) for tensor in self._moving])
        return loss + self._weight * (importance * (now - source) ** 2).sum()

    def state(self) -> dict[str, Tensor]:
        """Nothing: F and the source's values do not change."""
        return {}


class Turned:
    """How far the moving parameters have turned from their values when it was built.

    Args:
        moving: The parameters, by name; changed in place by the steps.
        settings: Weight and form.

    Attributes:
        copies: Tensors that are kept beside the state: the source's values, and their lengths.
        divergence: γ, once an adapter has made the teacher that measures it.
    """

    def __init__(self, moving: Mapping[str, Tensor], settings: DivergencePenalty):
        self._moving = list(moving.values())
        self._settings = settings
        self._sources = [tensor.detach().clone() for tensor in self._moving]
        self._lengths = torch.stack(torch._foreach_norm(self._sources))
        self.copies: list[Tensor] = [*self._sources, self._lengths]
        self.divergence: Callable[[], Float[Tensor, ""]] | None = None

    def __call__(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The loss with the penalty."""
        assert self.divergence is not None
        return loss + self._settings.weight * self.divergence() * self.distance()

    def distance(self) -> Float[Tensor, ""]:
        """R, the mean over parameters of −cos(θ, θ₀), or of ‖θ − θ₀‖²."""
        pairs = zip(self._moving, self._sources)
        if self._settings.squared:
            return torch.stack([((now - source) ** 2).sum() for now, source in pairs]).mean()
        products = torch.stack([torch.dot(now.flatten(), s.flatten()) for now, s in pairs])
        lengths = torch.stack(torch._foreach_norm(self._moving)) * self._lengths
        return -(products / lengths.clamp_min(1e-8)).mean()

    def state(self) -> dict[str, Tensor]:
        """Nothing: the source's values do not change."""
        return {}
