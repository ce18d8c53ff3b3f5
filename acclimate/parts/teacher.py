"""A teacher: the exponential moving average of the adapted model (mean teacher)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

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
        self._replaced = Replaced(self._averages)

    def keep_statistics(self, statistics: Moving) -> None:
        """Have running statistics of its own, which its passes in the steps move.

        Args:
            statistics: Those of the adapted model, by name; copied.
        """
        self.statistics = {name: tensor.clone() for name, tensor in statistics.items()}
        self._replaced = Replaced({**self._averages, **self.statistics})

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
        return self._replaced.answer(model, images)

    def state(self) -> dict[str, Tensor]:
        """The averages, and statistics of its own."""
        return {**self._averages, **self.statistics}


class Replaced:
    """Parameters and statistics that take the place of a classifier's own while it answers.

    Where they belong is found once. `torch.func.functional_call` finds it anew in each call, which
    for a small network takes a twentieth of the time of an adapted batch.

    Args:
        tensors: By name. Names begin with ``model.``; others are left out.
    """

    def __init__(self, tensors: Moving):
        self._tensors = tensors
        self._places: list[tuple[dict[str, Any], str, Tensor]] | None = None

    def answer(
        self, model: Classifier, images: Float[Tensor, "batch 3 h w"]
    ) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch dim"]]:
        """Logits and features of normalised images.

        Args:
            model: The adapted classifier, the same one in each call; left as it is.
            images: Normalised.
        """
        if self._places is None:
            self._places = self._found(model)
        before = [owner[name] for owner, name, _ in self._places]
        for owner, name, tensor in self._places:
            owner[name] = tensor
        try:
            features = model.encoder(images)
            return model.head(features), features
        finally:
            for (owner, name, _), tensor in zip(self._places, before):
                owner[name] = tensor

    def _found(self, model: Classifier) -> list[tuple[dict[str, Any], str, Tensor]]:
        """Each place of a tensor: those that are shared have several."""
        own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        wanted = {
            id(own[name.removeprefix("model.")]): tensor
            for name, tensor in self._tensors.items()
            if name.startswith("model.")
        }
        return [
            (owner, name, wanted[id(tensor)])
            for module in model.modules()
            for owner in (module._parameters, module._buffers)
            for name, tensor in owner.items()
            if id(tensor) in wanted
        ]
