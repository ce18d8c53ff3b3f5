"""Objectives with a teacher: the student learns its answers (CoTTA, RoTTA)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import log_softmax, softmax

from acclimate.backbones import Classifier
from acclimate.errors import InputError
from acclimate.objectives.objective import Objective, ObjectiveOptions, Outcome
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import Key
from acclimate.runtime.precision import at_least_float32
from acclimate.views.mild import mild_views

_TOGETHER = 512
"""Images in one pass of the teacher: as many views of a batch as fit, but at least one."""

Other = Callable[[Classifier, Tensor], Tensor]
"""Logits of normalised images by the adapted classifier with other parameters."""


def cross_entropy(
    logits: Float[Tensor, "batch classes"], target: Float[Tensor, "batch classes"]
) -> Float[Tensor, " batch"]:
    """Cross entropy of each prediction with a target distribution, −Σ_c t_c log p_c.

    ```python
    losses = cross_entropy(student, teacher.softmax(1))
    ```

    Args:
        logits: Of the prediction, of any float type; computed in at least float32.
        target: Probabilities.
    """
    return -(target * log_softmax(at_least_float32(logits), dim=1)).sum(1)


def symmetric_cross_entropy(
    logits: Float[Tensor, "batch classes"], target: Float[Tensor, "batch classes"]
) -> Float[Tensor, " batch"]:
    """Half the cross entropy with a target, and half that of the target with the prediction.

    Wang et al. 2019, *Symmetric cross entropy for robust learning with noisy labels*, as CoTTA's
    code for ImageNet and RMT use it.

    Args:
        logits: Of the prediction.
        target: Logits of the target.
    """
    logits, target = at_least_float32(logits), at_least_float32(target)
    forth = cross_entropy(logits, softmax(target, dim=1))
    return 0.5 * forth + 0.5 * cross_entropy(target, softmax(logits, dim=1))


class Taught(Objective):
    """An objective that asks a teacher, and perhaps the source model.

    Args:
        model: Not used.
        preprocessing: Not used.

    Attributes:
        teacher: The teacher, once an adapter has made it; until then the student itself.
        source: Likewise the model with the source's weights.
    """

    replayable = True
    asks_source: bool = True
    """Whether it asks the source model, which then has running statistics of its own."""

    def __init__(self, model: Classifier, preprocessing: Preprocessing):
        super().__init__()
        self.teacher: Other = _itself
        self.source: Other = _itself

    @torch.no_grad()
    def of_views(
        self, model: Classifier, views: Float[Tensor, "views 3 h w"], count: int
    ) -> Float[Tensor, "count batch classes"]:
        """The teacher's logits of several views of each image, some views at a time.

        Args:
            model: The classifier that adapts.
            views: All first views, then all second views, and so on; normalised.
            count: Number of views of each image.
        """
        batch = len(views) // count
        several = max(1, _TOGETHER // batch) * batch
        logits = [self.teacher(model, part) for part in views.split(several)]
        return torch.cat(logits).view(count, batch, -1)


@torch.no_grad()
def _itself(model: Classifier, images: Tensor) -> Tensor:
    return model(images)


class AveragedTeacher(Taught):
    """The student learns the mean answer of a teacher to many views of an image (CoTTA).

    Wang et al. 2022, *Continual test-time domain adaptation*, § 3.2: the target is the teacher's
    answer to the image itself if the source model is confident of it, else the mean over views.

    Args:
        model: Not used.
        preprocessing: Not used.
        views: Number of views.
        threshold: p_th, from which confidence of the source model on views are not used.
        symmetric: Whether the loss is `symmetric_cross_entropy`, as in the release for ImageNet.
        released: Whether logits are averaged, and the batch's mean confidence decides for all its
            images, as in the release; by the paper's equations probabilities are averaged, and each
            image's own confidence decides.
    """

    gives_logits = True

    def __init__(
        self,
        model: Classifier,
        preprocessing: Preprocessing,
        *,
        views: int = 32,
        threshold: float = 0.92,
        symmetric: bool = False,
        released: bool = False,
    ):
        super().__init__(model, preprocessing)
        self.views: int = views
        self.threshold: float = threshold
        self.symmetric: bool = symmetric
        self.released: bool = released

    def draw(
        self, images: Float[Tensor, "batch 3 h w"], key: Key, index: Int64[Tensor, " batch"]
    ) -> tuple[Tensor, ...]:
        """The images themselves, then their views."""
        return (torch.cat([images, mild_views(images, key=key, index=index, count=self.views)]),)

    def forward(self, model: Classifier, views: Float[Tensor, "all 3 h w"]) -> Outcome:
        """The loss of each image; the outcome's logits are the target's, which CoTTA answers."""
        batch = len(views) // (1 + self.views)
        plain, augmented = views[:batch], views[batch:]
        student = model(plain)  # first: its weights' casts are cached with their gradients
        confidence = at_least_float32(self.source(model, plain)).softmax(1).amax(1)
        target = self.target(
            at_least_float32(self.teacher(model, plain)),
            at_least_float32(self.of_views(model, augmented, self.views)),
            confidence,
        )
        if self.symmetric:
            losses = symmetric_cross_entropy(student, target)
        else:
            losses = cross_entropy(student, target.softmax(1))
        return Outcome(losses, target)

    def target(
        self,
        plain: Float[Tensor, "batch classes"],
        augmented: Float[Tensor, "views batch classes"],
        confidence: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch classes"]:
        """Logits of the target.

        Args:
            plain: The teacher's logits of the images.
            augmented: The teacher's logits of their views.
            confidence: Largest probability that the source model gives to each image.
        """
        if self.released:
            return torch.where(confidence.mean() < self.threshold, augmented.mean(0), plain)
        # The logarithms of probabilities are logits that have these as their softmax.
        mean = log_softmax(augmented, dim=2).logsumexp(0) - math.log(len(augmented))
        return torch.where((confidence < self.threshold)[:, None], mean, plain)


class AugmentedStudent(Taught):
    """The student learns from one view of an image what a teacher says of the image (RoTTA).

    Yuan et al. 2023, *Robust test-time adaptation in dynamic scenarios*, § 3.3.

    Args:
        model: Not used.
        preprocessing: Not used.
    """

    asks_source = False

    def draw(
        self, images: Float[Tensor, "batch 3 h w"], key: Key, index: Int64[Tensor, " batch"]
    ) -> tuple[Tensor, ...]:
        """The views, then the images themselves."""
        return (torch.cat([mild_views(images, key=key, index=index), images]),)

    def forward(
        self, model: Classifier, views: Float[Tensor, "all 3 h w"]
    ) -> Float[Tensor, " batch"]:
        """The loss of each image."""
        augmented, plain = views.chunk(2)
        student = model(augmented)
        return cross_entropy(student, at_least_float32(self.teacher(model, plain)).softmax(1))


@dataclass(frozen=True)
class AveragedTeacherOptions(ObjectiveOptions):
    """Options of `AveragedTeacher` at deployment."""

    views: int = 32
    """Number of views whose answers are averaged."""
    threshold: float = 0.92
    """p_th, from which confidence of the source model on views are not used."""
    symmetric: bool = False
    """Whether the loss is symmetric, as in the release for ImageNet."""
    released: bool = False
    """Whether logits are averaged and the batch's mean confidence decides, as in the release."""
    kind: ClassVar[type[Objective]] = AveragedTeacher

    def check(self) -> None:
        """Raise an InputError if there is no view, or the threshold is no probability."""
        if not 1 <= self.views <= 1000:
            raise InputError(f"views must be 1 to 1000, not {self.views}.")
        if not 0 <= self.threshold <= 1:
            raise InputError(f"threshold must lie between 0 and 1, not {self.threshold}.")


@dataclass(frozen=True)
class AugmentedStudentOptions(ObjectiveOptions):
    """Options of `AugmentedStudent` at deployment."""

    kind: ClassVar[type[Objective]] = AugmentedStudent
