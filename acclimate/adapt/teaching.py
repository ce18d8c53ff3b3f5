"""What an objective with a teacher is given: the teacher, and the model as it was."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from acclimate.adapt.state import State
from acclimate.errors import InputError
from acclimate.objectives import Taught
from acclimate.parts.aftermath import AverageTeacher, logits_with
from acclimate.parts.normalisation import BatchNorms


def give_teacher(objective: Taught, teacher: AverageTeacher | None, norms: BatchNorms) -> None:
    """Let an objective ask a teacher, which then has running statistics of its own.

    Raises:
        InputError: nothing that follows a step makes a teacher.
    """
    if teacher is None:
        raise InputError("the objective asks a teacher; add Teacher to aftermath.")
    teacher.keep_statistics(norms.state())
    objective.teacher = teacher.logits


def give_source(objective: Taught, state: State) -> None:
    """Let an objective ask the model with the values that a reset goes back to."""
    objective.source = SourceModel(state).logits


class SourceModel:
    """The model with the source's weights.

    Args:
        state: The adapter's; its values in the beginning are used, not copied.
    """

    def __init__(self, state: State):
        sources = {
            name.removeprefix("normalisation."): (torch.zeros_like(t) if kept is None else kept)
            for (name, t), kept in zip(state.tensors.items(), state.sources.values())
        }
        own = {name: t for name, t in sources.items() if name.startswith("model.")}
        self._weights = {name: t for name, t in own.items() if name in state.tensors}
        self._statistics = {name: t for name, t in own.items() if name not in state.tensors}

    @torch.no_grad()
    def logits(
        self, model: nn.Module, images: Float[Tensor, "batch 3 h w"]
    ) -> Float[Tensor, "batch classes"]:
        """The source's logits of normalised images.

        Args:
            model: The adapted classifier.
            images: Normalised.
        """
        # A pass of a step moves running statistics: copies are given to it.
        statistics = {name: tensor.clone() for name, tensor in self._statistics.items()}
        return logits_with(model, {**self._weights, **statistics}, images)
