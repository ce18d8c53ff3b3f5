"""A teacher: the exponential moving average of the adapted model (mean teacher)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import functional_call

from acclimate.backbones import Classifier
from acclimate.parts.approach import approach
from acclimate.parts.checks import share

Moving = Mapping[str, Tensor]


@dataclass(frozen=True)
class Teacher:
    """A second model, the exponential moving average of the adapted one (mean teacher)."""

    momentum: float = 0.999
    """Share of the teacher that stays in each step."""

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        share("momentum", self.momentum)

    def build(self, moving: Moving) -> "AverageTeacher":
        """A teacher that is the model as it is now."""
        return AverageTeacher(moving, 1 - self.momentum)


class AverageTeacher:
    """The averages of the moving parameters; all else is the adapted model's own.

    Args:
        moving: The parameters, by name; changed in place by the steps.
        rate: Share of the model that enters in each step.

    Attributes:
        copies: Tensors that are kept beside the state; none.
        statistics: Running statistics of batch norm that are the teacher's own, by name.
    """

    def __init__(self, moving: Moving, rate: float):
        self._moving, self._rate = moving, rate
        self._averages = {name: tensor.detach().clone() for name, tensor in moving.items()}
        self.copies: list[Tensor] = []
        self.statistics: dict[str, Tensor] = {}

    def keep_statistics(self, statistics: Moving) -> None:
        """Have running statistics of its own, which its passes in the steps move.

        Args:
            statistics: Those of the adapted model, by name; copied.
        """
        self.statistics = {name: tensor.clone() for name, tensor in statistics.items()}

    def __call__(self, taken: Bool[Tensor, ""]) -> None:
        """Move towards the model, after a step that was taken."""
        approach(list(self._averages.values()), list(self._moving.values()), self._rate * taken)

    @torch.no_grad()
    def logits(
        self, model: Classifier, images: Float[Tensor, "batch 3 h w"]
    ) -> Float[Tensor, "batch classes"]:
        """The teacher's logits of normalised images.

        Args:
            model: The adapted classifier.
            images: Normalised.
        """
        return self.answer(model, images)[0]

    @torch.no_grad()
    def answer(
        self, model: Classifier, images: Float[Tensor, "batch 3 h w"]
    ) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch dim"]]:
        """The teacher's logits and features of normalised images; arguments as for `logits`."""
        return answer_with(model, {**self._averages, **self.statistics}, images)

    def state(self) -> dict[str, Tensor]:
        """The averages, and statistics of its own."""
        return {**self._averages, **self.statistics}


def answer_with(
    model: Classifier, tensors: Moving, images: Float[Tensor, "batch 3 h w"]
) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch dim"]]:
    """Logits and features of a classifier with other parameters and statistics.

    Args:
        model: The adapted classifier; left as it is.
        tensors: What takes the place of its own, by name; names begin with ``model.``, and others
            are left out.
        images: Normalised.
    """
    encoder, head = (
        {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        for prefix in ("model.encoder.", "model.head.")
    )
    features = functional_call(model.encoder, encoder, (images,))
    return functional_call(model.head, head, (features,)), features
