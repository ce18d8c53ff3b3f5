"""The student learns a teacher's answers, and the source model's (PeTTA)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from acclimate.backbones import Classifier
from acclimate.errors import InputError
from acclimate.objectives.objective import Objective, ObjectiveOptions
from acclimate.objectives.taught import Taught, cross_entropy, symmetric_cross_entropy
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import Key
from acclimate.runtime.precision import at_least_float32
from acclimate.views.mild import mild_views


class AnchoredStudent(Taught):
    """The student learns what a teacher says of an image, and what the source model says (PeTTA).

    Hoang et al. 2024, *Persistent test-time adaptation in recurring testing scenarios*. The loss is
    a self-training loss with the teacher, and the anchor loss, cross entropy of the prediction for
    a view with the source model's for the image.

    Args:
        model: Not used.
        preprocessing: Not used.
        anchor: Weight of the anchor loss. With 0 the source model is not asked.
        symmetric: Whether the self-training loss is half the symmetric cross entropy of image and
            teacher, and half that of view and teacher; otherwise it is the cross entropy of the
            view's prediction with the teacher's.
    """

    def __init__(
        self,
        model: Classifier,
        preprocessing: Preprocessing,
        *,
        anchor: float = 1.0,
        symmetric: bool = True,
    ):
        super().__init__(model, preprocessing)
        self.anchor: float = anchor
        self.symmetric: bool = symmetric

    def draw(
        self, images: Float[Tensor, "batch 3 h w"], key: Key, index: Int64[Tensor, " batch"]
    ) -> tuple[Tensor, ...]:
        """The images, followed by a view of each."""
        return (torch.cat([images, mild_views(images, key=key, index=index)]),)

    def forward(
        self, model: Classifier, views: Float[Tensor, "all 3 h w"]
    ) -> Float[Tensor, " batch"]:
        """The loss of each image."""
        plain, augmented = views.chunk(2)
        student = model(plain) if self.symmetric else None
        of_view = model(augmented)
        teacher = at_least_float32(self.teacher(model, plain))
        if student is not None:
            losses = 0.5 * symmetric_cross_entropy(student, teacher)
            losses = losses + 0.5 * symmetric_cross_entropy(of_view, teacher)
        else:
            losses = cross_entropy(of_view, teacher.softmax(1))
        if self.anchor:
            source = at_least_float32(self.source(model, plain)).softmax(1)
            losses = losses + self.anchor * cross_entropy(of_view, source)
        return losses


@dataclass(frozen=True)
class AnchoredStudentOptions(ObjectiveOptions):
    """Options of `AnchoredStudent` at deployment."""

    anchor: float = 1.0
    """Weight of the cross entropy with the source model's predictions."""
    symmetric: bool = True
    """Whether the loss with the teacher is symmetric; the release takes that for CIFAR."""
    kind: ClassVar[type[Objective]] = AnchoredStudent

    def check(self) -> None:
        """Raise an InputError if the weight is negative or not finite."""
        if not (math.isfinite(self.anchor) and self.anchor >= 0):
            raise InputError(f"anchor must be a finite number, 0 or more, not {self.anchor}.")
