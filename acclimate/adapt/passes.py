"""A pass of a step: the objective, which images count in it, and the loss."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.objectives import Outcome, as_outcome
from acclimate.parts.selection import weighted_mean
from acclimate.runtime.precision import autocast

if TYPE_CHECKING:
    from acclimate.adapt.learner import Learner


def evaluated(
    learner: "Learner",
    views: Tensor,
    drawn: Sequence[Tensor],
    importance: Float[Tensor, " context"] | None,
    selected: Sequence[Tensor | None],
) -> tuple[Outcome, Float[Tensor, " context"] | None, Float[Tensor, ""]]:
    """The objective's outcome, the images' weights and the loss with its penalty.

    Args:
        learner: Its objective and model are run.
        views: Normalised.
        drawn: What else the objective takes.
        importance: A weight of each image, beside what the selection gives; None for ones.
        selected: Weights of the step's earlier passes: later ones add no images.
    """
    objective = learner.objective
    assert objective is not None
    precision, depthwise = learner.settings.precision, learner.depthwise
    with autocast(learner.device, precision, depthwise=depthwise):
        outcome = as_outcome(objective(learner.model, views, *drawn))
    with torch.no_grad():
        weights = learner.selection(outcome)
        if importance is not None:
            weights = importance if weights is None else weights * importance
        if selected and weights is not None:
            weights = weights * (selected[0] != 0)
    return outcome, weights, learner.penalty(weighted_mean(outcome.losses, weights))
