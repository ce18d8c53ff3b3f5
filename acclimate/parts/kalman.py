"""Aftermath: CMF's Kalman filter of the weights."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from acclimate.errors import InputError
from acclimate.parts.approach import approach
from acclimate.parts.checks import not_negative, share

_USUAL = 38_400
"""Parameters for which the noise is given: those of a ViT-B's layer norms."""
_CERTAIN = 0.9999
"""Trust in the hidden model from which on it is not moved at all, as released."""


@dataclass(frozen=True)
class KalmanFilter:
    """A hidden model follows the adapted one by a Kalman filter, and the adapted one follows it.

    After each step (Lee and Chang 2024, *Continual momentum filtering on parameter space for online
    test-time adaptation*, CMF), with one variance P for all parameters:

    ```text
    h ← α h + (1 − α) θ₀         the hidden model drifts to the source
    P ← α² P + q
    β = (1 − q) / (P + 1 − q)    at least `least`
    h ← β h + (1 − β) θ,  P ← β P
    θ ← γ θ + (1 − γ) h          as far as parameters move
    ```
    """

    drift: float = 0.99
    """Share α of the hidden model that stays, rather than to drift to the source."""
    noise: float = 0.005
    """Process noise q for 38,400 moving parameters; it is proportional to their number."""
    least: float = 0.89
    """Smallest share β of the hidden model that stays when it learns of the adapted one."""
    momentum: float = 0.99
    """Share γ of the adapted model that stays."""

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        not_negative("noise", self.noise)
        for name in ("drift", "least", "momentum"):
            share(name, getattr(self, name))

    def build(self, moving: Mapping[str, Tensor]) -> "FilteredWeights":
        """A filter whose hidden model is the model as it is now.

        Raises:
            InputError: so many parameters move that the noise is 1 or more.
        """
        count = sum(tensor.numel() for tensor in moving.values())
        noise = self.noise * count / _USUAL
        if noise >= 1:
            raise InputError(
                f"the filter's noise, {self.noise} for {_USUAL} parameters, is {noise:.3g} for the "
                f"{count} that move, and must be below 1; let fewer move, as with "
                f"update.parameters=norm, or choose a smaller noise."
            )
        return FilteredWeights(moving, self, noise)


class FilteredWeights:
    """The hidden model's moving parameters and their variance.

    Args:
        moving: The adapted parameters, by name; changed in place.
        settings: α, β's least value, γ.
        noise: q.

    Attributes:
        variance: P.
        hidden: h, by name.
        copies: Tensors that are kept beside the state: the source's values.
    """

    def __init__(self, moving: Mapping[str, Tensor], settings: KalmanFilter, noise: float):
        self._settings, self._noise = settings, noise
        self._moving = list(moving.values())
        self.copies: list[Tensor] = [tensor.detach().clone() for tensor in self._moving]
        self.hidden: dict[str, Tensor] = {
            name: tensor.detach().clone() for name, tensor in moving.items()
        }
        self.variance: Tensor = torch.zeros((), dtype=torch.float64, device=self.copies[0].device)

    def __call__(self, taken: Bool[Tensor, ""]) -> None:
        """Filter, after a step that was taken."""
        settings, hidden = self._settings, list(self.hidden.values())
        variance = settings.drift**2 * self.variance + self._noise
        kept = (1 - self._noise) / (variance + 1 - self._noise)
        kept = kept.clamp_min(settings.least)
        kept = torch.where(kept < _CERTAIN, kept, 1.0)
        self.variance.copy_(torch.where(taken, kept * variance, self.variance))
        approach(hidden, self.copies, (1 - settings.drift) * taken)
        approach(hidden, self._moving, (1 - kept).float() * taken)
        approach(self._moving, hidden, (1 - settings.momentum) * taken)

    def state(self) -> dict[str, Tensor]:
        """The hidden model and the variance."""
        return {"variance": self.variance} | {f"hidden.{n}": t for n, t in self.hidden.items()}
