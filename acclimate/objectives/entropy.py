"""Entropy minimisation (TENT, Wang et al. 2021)."""

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

    ```python
    loss = entropy_loss(model(images))
    ```

    Args:
        logits: Logits of any float type. The entropy is computed in at least float32.

    Returns:
        A value from 0, if all predictions are certain, to log(classes).
    """
    return entropies(logits).mean()


def entropies(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    """Entropy of each prediction, in nats and in at least float32."""
    precise = torch.promote_types(logits.dtype, torch.float32)
    logs = log_softmax(logits, dim=1, dtype=precise)
    return -(logs.exp() * logs).sum(1)


class Entropy(Objective):
    """Entropy of the classifier's own predictions; it has no modules and needs no source images.

    ```python
    outcome = Entropy(model, preprocessing)(model, preprocessing.normalize(images))
    outcome.losses.mean().backward()
    ```

    Args:
        model: Not used.
        preprocessing: Not used.
    """

    gives_logits = True
    replayable = True

    def __init__(self, model: Classifier, preprocessing: Preprocessing):
        super().__init__()

    def forward(self, model: Classifier, views: Float[Tensor, "batch 3 h w"]) -> Outcome:
        """Entropy of each prediction for normalised images, and the logits."""
        logits = model(views)
        return Outcome(entropies(logits), logits)


@dataclass(frozen=True)
class EntropyOptions(ObjectiveOptions):
    """Options of `Entropy` at deployment.

    ```python
    AdapterSettings(steps=1, objective=EntropyOptions(), update=Adam(1e-3))
    ```
    """

    kind: ClassVar[type[Objective]] = Entropy
