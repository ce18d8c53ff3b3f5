"""What parts are given that another part makes: a teacher, its divergence, the model as it was."""

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.adapt.state import Named, State
from acclimate.backbones import Classifier
from acclimate.errors import InputError
from acclimate.objectives import Taught
from acclimate.parts.divergence import SensingAverage
from acclimate.parts.normalisation import BatchNorms
from acclimate.parts.penalty import Turned
from acclimate.parts.teacher import AverageTeacher, Replaced


def give_teacher(objective: Taught, teacher: AverageTeacher | None, norms: BatchNorms) -> None:
    """Let an objective ask a teacher, which then has running statistics of its own.

    Raises:
        InputError: nothing that follows a step makes a teacher.
    """
    if teacher is None:
        raise InputError("the objective asks a teacher; add Teacher to aftermath.")
    teacher.keep_statistics(norms.state())
    objective.teacher = teacher.logits


def give_divergence(penalty: object, teacher: AverageTeacher | None) -> None:
    """Let a penalty that goes by a divergence ask the teacher that measures it.

    Raises:
        InputError: nothing that follows a step measures it.
    """
    if not isinstance(penalty, Turned):
        return
    if not isinstance(teacher, SensingAverage):
        raise InputError("the penalty goes by a divergence; add SensingTeacher to aftermath.")
    penalty.divergence = teacher.divergence


def give_source(objective: Taught, norms: BatchNorms) -> "SourceModel | None":
    """Let an objective that asks the source model do so; its weights are given to it later."""
    if not objective.asks_source:
        return None
    source = SourceModel(norms.state())
    objective.source = source.logits
    return source


class SourceModel:
    """The model with the source's weights, and running statistics of its own.

    Args:
        statistics: Those of the adapted model, by name; copied. Passes in the steps move the copy.

    Attributes:
        statistics: Its running statistics, by name.
    """

    def __init__(self, statistics: Named):
        self.statistics: dict[str, Tensor] = {
            name: tensor.clone() for name, tensor in statistics.items()
        }
        self._replaced = Replaced({})

    def take_weights(self, state: State) -> None:
        """Use the values that parameters have in the beginning.

        Args:
            state: The adapter's; its values are used, not copied.
        """
        weights = {
            name: torch.zeros_like(state.tensors[name]) if kept is None else kept
            for name, kept in state.sources.items()
            if name.startswith("model.")
        }
        self._replaced = Replaced({**weights, **self.statistics})

    @torch.no_grad()
    def logits(
        self, model: Classifier, images: Float[Tensor, "batch 3 h w"]
    ) -> Float[Tensor, "batch classes"]:
        """The source's logits of normalised images.

        Args:
            model: The adapted classifier.
            images: Normalised.
        """
        return self._replaced.answer(model, images)[0]

    def state(self) -> dict[str, Tensor]:
        """Its running statistics."""
        return dict(self.statistics)
