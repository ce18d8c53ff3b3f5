"""By how many quarter turns was an image rotated: the task of test-time training (Sun et al.)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from acclimate import randomness
from acclimate.backbones import Classifier
from acclimate.backbones.rest import rest_after
from acclimate.backbones.stages import resolve_tap
from acclimate.backbones.taps import tapped
from acclimate.errors import InputError
from acclimate.objectives.objective import Objective, ObjectiveOptions
from acclimate.preprocessing import Preprocessing
from acclimate.views import all_rotations, rotate, shifted_crop


class Rotation(Objective):
    """Four-way rotation prediction on a branch of the encoder (TTT, Sun et al. 2020, § 2 and 3).

    The branch is a copy of what the encoder has after the tap, and a linear layer of four outputs.
    It starts from the encoder's present weights, so that the tap and what precedes it are shared
    from the first step of joint training on.

    Args:
        model: Its encoder is tapped and copied.
        preprocessing: Gives the size of the images.
        tap: Where the branch leaves the encoder: a module's name, or a stage's number from 1.
            None: the branch is the linear layer alone, on the encoder's features.
        copies: Views of each image at deployment.
        padding: The largest shift of a view, in pixels.

    Raises:
        InputError: an unknown tap, fewer than one copy, or a negative padding.
    """

    def __init__(
        self,
        model: Classifier,
        preprocessing: Preprocessing,
        *,
        tap: str | int | None = 2,
        copies: int = 32,
        padding: int = 4,
    ):
        super().__init__()
        if copies < 1 or padding < 0:
            raise InputError(
                f"rotation needs copies of 1 or more and padding of 0 or more, not {copies} and "
                f"{padding}."
            )
        self.copies, self.padding = copies, padding
        size = preprocessing.size
        self.tap = None if tap is None else resolve_tap(model.encoder, tap, size)
        rest = nn.Sequential() if self.tap is None else rest_after(model.encoder, self.tap, size)
        # The copy of a frozen encoder is to learn all the same.
        self.branch = nn.Sequential(rest, nn.Linear(model.feature_dim, 4)).requires_grad_()

    def draw(
        self, images: Float[Tensor, "batch 3 h h"], key: int, index: Int64[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch*copies 3 h h"], Int64[Tensor, " batch*copies"]]:
        """Shifted, flipped copies of each image, each turned at random, and their quarter turns.

        All copies of the first image come first, then all of the second, ...
        """
        number = torch.arange(self.copies, device=index.device)
        copy = (index[:, None] * self.copies + number).flatten()  # [batch copies]
        views = images.repeat_interleave(self.copies, dim=0)
        views = shifted_crop(views, self.padding, key=key, index=copy)
        turns = (4 * randomness.uniform(randomness.key(key, "turns"), copy, 1)).long().squeeze(1)
        return rotate(views, turns), turns

    def forward(
        self,
        model: Classifier,
        views: Float[Tensor, "views 3 h h"],
        turns: Int64[Tensor, " views"],
    ) -> Float[Tensor, ""]:
        """Cross entropy of the predicted turns, a mean over all views.

        Args:
            model: The classifier that adapts, or that is trained jointly.
            views: Normalised.
            turns: Quarter turns of each view, 0..3.
        """
        return cross_entropy(self.logits(model, views).float(), turns)

    def logits(
        self, model: Classifier, views: Float[Tensor, "views 3 h h"]
    ) -> Float[Tensor, "views 4"]:
        """How much each normalised view looks turned by 0, 1, 2, 3 quarters."""
        if self.tap is None:
            return self.branch(model.encoder(views))
        return self.branch(*tapped(model.encoder, [self.tap], views))

    def source_draw(
        self, images: Float[Tensor, "batch 3 h h"], key: int, index: Int64[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "4*batch 3 h h"], Int64[Tensor, " 4*batch"]]:
        """One shifted, flipped view of each image in all four rotations, and the quarter turns.

        All views by 0 degrees come first, then all by 90, ...
        """
        return all_rotations(shifted_crop(images, self.padding, key=key, index=index))


@dataclass(frozen=True)
class RotationOptions(ObjectiveOptions):
    """Options of `Rotation` at deployment."""

    kind: ClassVar[type[Objective]] = Rotation
