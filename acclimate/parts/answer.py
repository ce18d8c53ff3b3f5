"""Answer: whether a batch is answered for before or after its steps, and by which model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from jaxtyping import Float
from torch import Tensor


class Prediction(NamedTuple):
    """Logits of the images that are answered for, and the features that the head read."""

    logits: Float[Tensor, "batch classes"]
    """float32."""
    features: Float[Tensor, "batch dim"] | None = None
    """None where only logits are known."""


Predict = Callable[[bool], Prediction]
"""A forward pass of the model as it is now; of the mirrored images if True is given."""


@dataclass(frozen=True)
class After:
    """The adapted model, after the steps."""

    flip: bool = False
    """Whether the logits of the mirrored images are averaged in, which costs a second pass."""
    of_teacher: ClassVar[bool] = False
    fixed: ClassVar[bool] = False

    def early(self, predict: Predict, given: bool) -> Prediction | None:
        """What is to be computed before the first step: nothing."""

    def late(self, predict: Predict, early: Prediction | None) -> Prediction:
        """The answer, once the steps are taken."""
        return _with_mirrored(predict) if self.flip else predict(False)


@dataclass(frozen=True)
class Before:
    """The model as it was before the batch's steps, as EATA, SAR, DeYO and ROID publish it.

    Where the first step's objective computes logits of the images anyway, these are taken, and
    there is no second pass. They are normalised as in the step, without a prior.
    """

    flip: bool = False
    """Whether the logits of the mirrored images are averaged in, which costs two passes."""
    of_teacher: ClassVar[bool] = False
    fixed: ClassVar[bool] = True  # no step on a batch changes its answer

    def early(self, predict: Predict, given: bool) -> Prediction | None:
        """What is to be computed before the first step: the answer, unless the step gives it."""
        if self.flip:
            return _with_mirrored(predict)
        return None if given else predict(False)

    def late(self, predict: Predict, early: Prediction | None) -> Prediction:
        """The early answer; without any step it is that of the model as it is."""
        return predict(False) if early is None else early


@dataclass(frozen=True)
class FromTeacher(After):
    """The teacher, after the steps; needs `acclimate.parts.aftermath.Teacher`."""

    of_teacher: ClassVar[bool] = True


Answer = After | Before | FromTeacher


def _with_mirrored(predict: Predict) -> Prediction:
    """The mean logits and features of images and their mirror images."""
    plain, mirrored = predict(False), predict(True)
    features = None
    if plain.features is not None and mirrored.features is not None:
        features = (
            plain.features + mirrored.features
        ) / 2  # a linear head's mean logits are theirs
    return Prediction((plain.logits + mirrored.logits) / 2, features)
