"""Entropy, and the discrepancy of a transformer's activations from the source's (FOA)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.backbones import Classifier
from acclimate.backbones.prompts import block_activations, blocks_of, reads_one_token
from acclimate.backbones.trace import two_images
from acclimate.errors import InputError
from acclimate.objectives.entropy import entropies
from acclimate.objectives.objective import Objective, ObjectiveOptions, Outcome
from acclimate.preprocessing import Preprocessing
from acclimate.resizing import Side
from acclimate.runtime.precision import at_least_float32

_REFERENCE = 64
"""Images of a batch that λ belongs to."""


def discrepancy(
    activations: Sequence[Float[Tensor, "batch width"]],
    means: Sequence[Float[Tensor, " width"]],
    deviations: Sequence[Float[Tensor, " width"]],
    *,
    released: bool = False,
) -> Float[Tensor, ""]:
    """Σ over layers of ‖μ − μ_source‖ + ‖σ − σ_source‖ (FOA, Niu et al. 2024, Eq. 5).

    ```python
    value = discrepancy([features], [source.mean(0)], [source.std(0)])
    ```

    Args:
        activations: Of each layer, for at least two images.
        means: μ_source of each layer.
        deviations: σ_source of each layer, unbiased.
        released: Whether the norms are squared, as in the release.
    """
    distances = []
    for own, mean, deviation in zip(activations, means, deviations, strict=True):
        found = torch.std_mean(at_least_float32(own), dim=0)
        distances += [found[1] - mean, found[0] - deviation]
    norms = torch.stack([torch.linalg.vector_norm(each) for each in distances])
    return (norms**2 if released else norms).sum()


class Tokens:
    """What of a transformer FOA looks at.

    Args:
        model: Left as it is.
        size: Height and width of its images.

    Attributes:
        blocks: The names of its blocks.
        one_token: Whether its features depend on the first token alone.

    Raises:
        InputError: the encoder is no plain transformer.
    """

    def __init__(self, model: Classifier, size: Side):
        self.blocks: list[str] = blocks_of(model.encoder, size)
        images = two_images(model.encoder, size)
        self.one_token: bool = reads_one_token(model.encoder, self.blocks[-1], images)

    def activations(
        self, model: Classifier, images: Float[Tensor, "batch 3 h w"]
    ) -> list[Float[Tensor, "batch width"]]:
        """One tensor for each block, the last the features; see `block_activations`."""
        return block_activations(model.encoder, self.blocks, images, one_token=self.one_token)


class Discrepancy(Objective):
    """Entropy of each prediction, and how far a batch's activations are from the source's (FOA).

    FOA's fitness, divided by the number of images: mean H + λ/64 · `discrepancy`. It has no
    modules, and needs moments of the source's activations.

    Args:
        model: A vision transformer, whose blocks are looked at.
        preprocessing: Preprocessing of its images; only their size is used.
        moments: ``mean.LAYER`` and ``std.LAYER`` of the source's activations.
        weight: λ.
        released: Whether the norms are squared, as in the release.
    """

    min_images = 2
    replayable = True

    def __init__(
        self,
        model: Classifier,
        preprocessing: Preprocessing,
        *,
        moments: Mapping[str, Tensor],
        weight: float = 0.4,
        released: bool = False,
    ):
        super().__init__()
        self.tokens: Tokens = Tokens(model, preprocessing.size)
        self.weight: float = weight
        self.released: bool = released
        for name, tensor in moments.items():
            self.register_buffer(name.replace(".", "_"), tensor)

    def forward(self, model: Classifier, views: Float[Tensor, "batch 3 h w"]) -> Outcome:
        """The loss of each normalised image, and logits and features."""
        activations = self.tokens.activations(model, views)
        logits = model.head(activations[-1])
        distance = discrepancy(
            activations, self._all("mean"), self._all("std"), released=self.released
        )
        losses = entropies(logits) + self.weight / _REFERENCE * distance
        return Outcome(losses, logits, activations[-1])

    def _all(self, name: str) -> list[Tensor]:
        layers = range(len(self.tokens.blocks))
        return [self.get_buffer(f"{name}_{layer}") for layer in layers]


@dataclass(frozen=True)
class DiscrepancyOptions(ObjectiveOptions):
    """Options of `Discrepancy` at deployment."""

    weight: float = 0.4
    """λ, weight of the discrepancy; FOA's for ImageNet-R is 0.2."""
    released: bool = False
    """Whether the norms are squared, as in the release: to reproduce published numbers only."""
    kind: ClassVar[type[Objective]] = Discrepancy
    source_statistics: ClassVar[tuple[str, ...]] = ("moments",)

    def check(self) -> None:
        """Raise an InputError if the weight is not a finite number, 0 or more."""
        if not 0 <= self.weight < float("inf"):
            raise InputError(f"weight must be a finite number, 0 or more, not {self.weight}.")

    def build(
        self,
        model: Classifier,
        preprocessing: Preprocessing,
        trained: Objective | None,
        *,
        moments: Mapping[str, Tensor],
    ) -> Objective:
        """The objective of an adapter.

        Args:
            model: The classifier that adapts.
            preprocessing: The preprocessing of its images.
            trained: Not used.
            moments: Moments of the source's activations.

        Raises:
            InputError: the model is no vision transformer.
        """
        weight, released = self.weight, self.released
        return Discrepancy(model, preprocessing, moments=moments, weight=weight, released=released)
