"""Selections of reliable images: certain ones, new ones, and those known by their shape."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from acclimate.errors import InputError
from acclimate.objectives import Outcome
from acclimate.objectives.entropy import entropies
from acclimate.parts.checks import not_negative

SIMILARITIES = ((10, 0.4), (100, 0.1))
"""EATA's largest similarity up to so many classes: CIFAR-10, CIFAR-100."""
_MANY = 0.05
"""And with more: ImageNet."""
_KEPT = 0.9
"""Share of the mean prediction that each batch leaves."""


@dataclass(frozen=True)
class Reliable:
    """Images whose prediction has a low entropy, all with the same weight.

    Niu et al. 2023, *Towards stable test-time adaptation in dynamic wild world*, SAR, Eq. 2.
    """

    margin: float = 0.4
    """Largest entropy, as a share of log(classes)."""

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        not_negative("margin", self.margin)

    def build(self, classes: int, device: torch.device) -> "LowEntropy":
        """For a number of classes."""
        return LowEntropy(self.margin * math.log(classes))


@dataclass(frozen=True)
class ReliableAndNew:
    """Certain images that are unlike the mean prediction so far, the more certain the heavier.

    Niu et al. 2022, *Efficient test-time model adaptation without forgetting*, EATA. An image is
    kept if H < E₀ and |cos(p, m)| < ε, with the weight exp(E₀ − H). In the first batch the second
    condition does not hold yet. m averages the predictions.
    """

    margin: float = 0.4
    """E₀, as a share of log(classes)."""
    similarity: float | None = None
    """ε. None takes the published value: 0.4 up to 10 classes, 0.1 up to 100, 0.05 beyond."""
    mean_of_kept: bool = False
    """Whether m averages the kept images alone, as EATA's release does, and not the whole batch."""

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        not_negative("margin", self.margin)
        if self.similarity is not None:
            not_negative("similarity", self.similarity)

    def build(self, classes: int, device: torch.device) -> "NewPredictions":
        """For a number of classes; nothing was seen yet."""
        similarity = self.similarity
        if similarity is None:
            similarity = next((value for most, value in SIMILARITIES if classes <= most), _MANY)
        margin = self.margin * math.log(classes)
        return NewPredictions(margin, similarity, self.mean_of_kept, classes, device)


@dataclass(frozen=True)
class ReliableByShape:
    """Certain images whose prediction suffers if the image's shapes are destroyed.

    Lee et al. 2024, *Entropy is not enough for test-time adaptation*, DeYO. An image is kept if
    H < τ_Ent and PLPD > τ_PLPD, with the weight exp(Ent₀ − H) + exp(PLPD). PLPD is the drop of the
    predicted class's probability; the objective `acclimate.objectives.Destroyed` gives it.
    """

    margin: float = 0.5
    """τ_Ent, as a share of log(classes)."""
    drop: float = 0.2
    """τ_PLPD: 0.2 as published for small, mixed or imbalanced batches, 0.3 for other ones."""
    reference: float = 0.4
    """Ent₀, as a share of log(classes)."""

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        not_negative("margin", self.margin)
        not_negative("reference", self.reference)
        if not -1 <= self.drop <= 1:
            raise InputError(f"drop must lie between -1 and 1, not {self.drop}.")

    def build(self, classes: int, device: torch.device) -> "KnownByShape":
        """For a number of classes."""
        log = math.log(classes)
        return KnownByShape(self.margin * log, self.drop, self.reference * log)


@dataclass(frozen=True)
class LowEntropy:
    """Weight 1 below an entropy, 0 from it on."""

    margin: float
    """The entropy, in nats."""

    def __call__(self, outcome: Outcome) -> Float[Tensor, " batch"]:
        """The weights."""
        entropy = entropies(_logits(outcome))
        return (entropy < self.margin).to(entropy.dtype)

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


class NewPredictions:
    """Weights of certain images that are unlike the mean prediction; see `ReliableAndNew`.

    Args:
        margin: E₀, in nats.
        similarity: ε.
        mean_of_kept: Whether the mean is that of the kept images.
        classes: Number of classes.
        device: Where the mean is kept.
    """

    def __init__(
        self,
        margin: float,
        similarity: float,
        mean_of_kept: bool,
        classes: int,
        device: torch.device,
    ):
        self.margin: float = margin
        self.similarity: float = similarity
        self.mean_of_kept: bool = mean_of_kept
        # NaN: nothing was seen.
        self.mean: Tensor = torch.full((classes,), torch.nan, dtype=torch.float64, device=device)

    def __call__(self, outcome: Outcome) -> Float[Tensor, " batch"]:
        """The weights; the predictions enter the mean."""
        logits = _logits(outcome)
        entropy = entropies(logits)
        p = logits.softmax(1, dtype=self.mean.dtype)  # [batch, classes]
        first = self.mean.isnan().any()
        new = first | (cosine_similarity(self.mean, p, dim=1).abs() < self.similarity)
        kept = (entropy < self.margin) & new
        entering = kept if self.mean_of_kept else torch.ones_like(kept)
        now = (p * entering[:, None]).sum(0) / entering.sum()
        now = torch.where(first, now, _KEPT * self.mean + (1 - _KEPT) * now)
        self.mean.copy_(torch.where(entering.any(), now, self.mean))
        return torch.where(kept, (self.margin - entropy).exp(), 0)

    def state(self) -> dict[str, Tensor]:
        """The mean prediction."""
        return {"mean": self.mean}


@dataclass(frozen=True)
class KnownByShape:
    """Weights of certain images that destroying changes; see `ReliableByShape`."""

    margin: float
    """τ_Ent, in nats."""
    drop: float
    """τ_PLPD."""
    reference: float
    """Ent₀, in nats."""

    def __call__(self, outcome: Outcome) -> Float[Tensor, " batch"]:
        """The weights."""
        if outcome.drops is None:
            raise InputError(
                "the selection reliable-shape reads what destroying an image changes; choose the "
                "objective destroyed."
            )
        entropy = entropies(_logits(outcome))
        kept = (entropy < self.margin) & (outcome.drops > self.drop)
        weights = (self.reference - entropy).exp() + outcome.drops.exp()
        return torch.where(kept, weights, 0)

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


def _logits(outcome: Outcome) -> Float[Tensor, "batch classes"]:
    if outcome.logits is None:
        raise InputError(
            "a selection by entropy reads predictions, which this objective does not compute; "
            "choose the objective entropy, or the selection all."
        )
    return outcome.logits
