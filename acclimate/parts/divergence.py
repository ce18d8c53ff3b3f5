"""How far features have drifted from the source's, and a teacher that goes by it (PeTTA)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from acclimate.parts.answer import Prediction
from acclimate.parts.approach import approach
from acclimate.parts.checks import share
from acclimate.parts.teacher import AverageTeacher, Moving

_LEAST = 1e-6
"""Variance below which a feature's is not taken: the release adds as much."""


@dataclass(frozen=True)
class SensingTeacher:
    """A teacher that moves the less, the further features have drifted from the source's (PeTTA).

    Hoang et al. 2024, *Persistent test-time adaptation in recurring testing scenarios*: its step is
    (1 − γ) α₀, where γ is the divergence of running class means from the source's, and 1 − α₀ the
    momentum. The means are of the features of all images that are answered for.
    """

    momentum: float = 0.999
    """Share of the teacher that stays in each step while features are the source's; 1 − α₀."""
    renewal: float = 0.05
    """Share of the newest features in the running class means."""
    summed: bool = False
    """Whether γ sums over features, as in the paper, instead of averaging, as in the release."""
    needs_features: ClassVar[bool] = True
    source_statistics: ClassVar[tuple[str, ...]] = ("prototypes",)

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        share("momentum", self.momentum)
        share("renewal", self.renewal)

    def build(self, moving: Moving, *, prototypes: Mapping[str, Tensor]) -> "SensingAverage":
        """A teacher that is the model as it is now, and means that are the source's."""
        return SensingAverage(moving, self, prototypes)


def divergence(
    means: Float[Tensor, "classes dim"],
    source: Mapping[str, Tensor],
    present: Bool[Tensor, " classes"],
    *,
    summed: bool,
) -> Float[Tensor, ""]:
    """γ, how far class means of features lie from the source's, 0..1; NaN without any class.

    With d the squared distance in a feature, in variances of the source's class: 1 − exp(−d̄), d̄
    the mean of d over features and classes, as in PeTTA's release; or the mean over classes of
    1 − exp(−Σ d), as in the paper. The sum is close to 1 as soon as there are many features.

    ```python
    divergence(prototypes["mean"], prototypes, torch.ones(10, dtype=torch.bool), summed=False)  # 0
    ```

    Args:
        means: Class means now.
        source: Mean, variance and number of images of each class, from
            `acclimate.source.prototypes.prototypes`.
        present: The classes that count, if the source had two images of them.
        summed: Whether the paper's form is taken.
    """
    known = present & (source["images"] > 1)
    squares = (means - source["mean"]) ** 2
    if summed:
        each = 1 - (-(squares / source["variance"].clamp_min(_LEAST)).sum(1)).exp()  # [classes]
    else:
        each = (squares / (source["variance"] + _LEAST)).mean(1)  # [classes]
    mean = torch.where(known, each, 0).sum() / known.sum()
    return mean if summed else 1 - (-mean).exp()


class SensingAverage(AverageTeacher):
    """An average of the moving parameters, and running class means of the features of answers.

    Features join the means with the next step that is taken, as the mean of each class since the
    step before. So the means do not depend on how images come in batches.

    Args:
        moving: The parameters, by name; changed in place by the steps.
        settings: Momentum, and the form of the divergence.
        prototypes: The source's class means, variances and numbers of images.

    Attributes:
        means: The running class means.
    """

    def __init__(self, moving: Moving, settings: SensingTeacher, prototypes: Mapping[str, Tensor]):
        super().__init__(moving, 1 - settings.momentum)
        self._settings = settings
        dtype = next(iter(moving.values())).dtype
        self._source = {name: tensor.to(dtype) for name, tensor in prototypes.items()}
        self.copies: list[Tensor] = [*self._source.values()]
        self.means: Tensor = self._source["mean"].clone()
        self._sums = torch.zeros_like(self.means)
        self._counts = torch.zeros_like(self.means[:, :1])
        self._last = torch.zeros_like(self.means[0, 0])

    @torch.no_grad()
    def sees(self, prediction: Prediction) -> None:
        """Note the features of images that are answered for."""
        assert prediction.features is not None
        labels = prediction.logits.argmax(1)
        numbers = torch.arange(len(self.means), device=labels.device)[:, None]
        own = (labels == numbers).to(self.means)  # [classes, batch]
        self._sums += own @ prediction.features.to(self.means)
        self._counts += own.sum(1, keepdim=True)

    @torch.no_grad()
    def divergence(self) -> Float[Tensor, ""]:
        """γ of the classes that were answered since the last step, before they join the means.

        Where none of them is known from the source, it is the last step's.
        """
        present = self._counts[:, 0] > 0
        found = divergence(self.means, self._source, present, summed=self._settings.summed)
        return torch.where(found.isnan(), self._last, found)

    @torch.no_grad()
    def __call__(self, taken: Bool[Tensor, ""]) -> None:
        """Move towards the model, and let features join the means, after a step that was taken."""
        far = self.divergence()
        rate = self._rate * (1 - far) * taken
        approach(list(self._averages.values()), list(self._moving.values()), rate)
        newest = self._sums / self._counts.clamp_min(1)
        joins = (self._counts > 0) & taken  # [classes, 1]
        joined = self.means.lerp(newest, self._settings.renewal)
        self.means.copy_(torch.where(joins, joined, self.means))
        for noted in (self._sums, self._counts):
            noted.masked_fill_(taken, 0)
        self._last.copy_(torch.where(taken, far, self._last))

    def state(self) -> dict[str, Tensor]:
        """The averages, statistics of its own, the means, and what is to join them."""
        notes = {"sums": self._sums, "counts": self._counts, "divergence": self._last}
        return super().state() | {"means": self.means} | notes
