"""Information maximisation: each prediction certain, all together diverse (SHOT, Liang 2020)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import log_softmax

from acclimate.backbones import Classifier
from acclimate.objectives.objective import Objective, ObjectiveOptions, Outcome
from acclimate.preprocessing import Preprocessing
from acclimate.runtime.precision import at_least_float32


def information_losses(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    """Divergences whose mean is the mean entropy minus the entropy of the mean prediction.

    The loss of image i is Σ_c p_ic (log p̄_c − log p_ic), p̄ the batch's mean prediction. Their mean
    is H(p̄)'s negative plus the mean H(p_i): the negative mutual information of images and
    classes. It lies between −log(classes) and 0.

    ```python
    loss = information_losses(model(images)).mean()
    ```

    Args:
        logits: Logits of any float type. The loss is computed in at least float32.
    """
    logs = log_softmax(at_least_float32(logits), dim=1)
    mean = torch.logsumexp(logs, dim=0) - math.log(len(logs))  # [classes]; never log 0
    return (logs.exp() * (mean - logs)).sum(1)


class Information(Objective):
    """SHOT's information maximisation of the classifier's own predictions.

    A single image has no information: its loss is 0, and there is no step.

    ```python
    outcome = Information(model, preprocessing)(model, preprocessing.normalize(images))
    outcome.losses.mean().backward()
    ```

    Args:
        model: Not used.
        preprocessing: Not used.
    """

    gives_logits = True
    gives_features = True
    replayable = True
    min_images = 2

    def __init__(self, model: Classifier, preprocessing: Preprocessing):
        super().__init__()

    def forward(self, model: Classifier, views: Float[Tensor, "batch 3 h w"]) -> Outcome:
        """The loss of each normalised image, and logits and features."""
        features = model.encoder(views)
        logits = model.head(features)
        return Outcome(information_losses(logits), logits, features)


@dataclass(frozen=True)
class InformationOptions(ObjectiveOptions):
    """Options of `Information` at deployment.

    ```python
    AdapterSettings(steps=1, objective=InformationOptions(), update=SGD(1e-3, momentum=0.9))
    ```
    """

    kind: ClassVar[type[Objective]] = Information
