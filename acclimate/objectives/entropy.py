"""Be sure of your predictions: entropy minimisation (TENT, Wang et al. 2021)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import log_softmax

from acclimate.backbones import Classifier
from acclimate.objectives.objective import Objective, ObjectiveOptions, Outcome
from acclimate.preprocessing import Preprocessing


def entropy_loss(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
    """Mean entropy of the predictions, −Σ_c p(c) log p(c), in nats (TENT, § 3.1).

    Args:
        logits: Of any float type; the entropy is computed in at least float32.

    Returns:
        From 0, where all predictions are certain, to log classes.
    """
    return entropies(logits).mean()


def entropies(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    """The entropy of each prediction."""
    precise = torch.promote_types(logits.dtype, torch.float32)
    logs = log_softmax(logits, dim=1, dtype=precise)
    return -(logs.exp() * logs).sum(1)


class Entropy(Objective):
    """The entropy of the classifier's own predictions; it has no modules and needs no source.

    Args:
        model: Not used.
        preprocessing: Not used.
    """

    gives_logits = True

    def __init__(self, model: Classifier, preprocessing: Preprocessing):
        super().__init__()

    def forward(self, model: Classifier, views: Float[Tensor, "batch 3 h w"]) -> Outcome:
        """The entropy of each prediction for normalised images, and its logits."""
        logits = model(views)
        return Outcome(entropies(logits), logits)


@dataclass(frozen=True)
class EntropyOptions(ObjectiveOptions):
    """Options of `Entropy` at deployment."""

    kind: ClassVar[type[Objective]] = Entropy
