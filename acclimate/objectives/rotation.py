"""Rotation prediction, the auxiliary task of test-time training (TTT, Sun et al. 2020)."""

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
from acclimate.randomness import Key
from acclimate.resizing import words
from acclimate.views import all_rotations, rotate, shifted_crop


class Rotation(Objective):
    """Four-way rotation prediction on a branch of the encoder (TTT, Sun et al. 2020, § 2 and 3).

    The branch is a copy of the encoder's layers after the tap, with its present weights, and a
    linear layer with four outputs. The layers up to the tap are shared between both tasks.

    ```python
    objective = Rotation(model, preprocessing, tap=2, copies=8)
    views, quarter_turns = objective.draw(images, key(0), torch.arange(len(images)))
    loss = objective(model, preprocessing.normalize(views), quarter_turns)
    ```

    Args:
        model: The classifier, from whose encoder the branch is copied.
        preprocessing: Preprocessing of its images; only their size is used.
        tap: Layer where the branch leaves the encoder: name of a module, or index of a stage,
            counted from 1. With None the branch is the linear layer alone, on the features.
        copies: Number of views of each image at deployment.
        padding: Largest shift of a view, in pixels.

    Raises:
        InputError: an unknown tap, fewer than one copy, a negative padding, or images that are not
            square.
    """

    replayable = True

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
        if preprocessing.height != preprocessing.width:
            raise InputError(
                f"rotation needs square images, not {words(preprocessing.size)} pixels; choose "
                f"another method."
            )
        self.copies: int = copies
        self.padding: int = padding
        size = preprocessing.size
        self.tap: str | None = None if tap is None else resolve_tap(model.encoder, tap, size)
        rest = nn.Sequential() if self.tap is None else rest_after(model.encoder, self.tap, size)
        # The encoder may be frozen, but the branch must be trainable.
        self.branch: nn.Sequential = nn.Sequential(
            rest, nn.Linear(model.feature_dim, 4)
        ).requires_grad_()

    def draw(
        self, images: Float[Tensor, "batch 3 h h"], key: Key, index: Int64[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch*copies 3 h h"], Int64[Tensor, " batch*copies"]]:
        """Shifted, flipped and randomly rotated views of each image, and their quarter turns.

        All views of the first image come first, then all of the second, and so on.
        """
        copies = torch.arange(self.copies, device=index.device)
        copy = (index[:, None] * self.copies + copies).flatten()  # [batch copies]
        views = images.repeat_interleave(self.copies, dim=0)
        views = shifted_crop(views, self.padding, key=key, index=copy)
        uniform = randomness.uniform(randomness.key(key, "turns"), copy, 1)
        quarter_turns = (4 * uniform).long().squeeze(1)
        return rotate(views, quarter_turns), quarter_turns

    def forward(
        self,
        model: Classifier,
        views: Float[Tensor, "views 3 h h"],
        quarter_turns: Int64[Tensor, " views"],
    ) -> Float[Tensor, ""]:
        """Cross entropy of the predicted rotations, a mean over all views.

        Args:
            model: The classifier that adapts, or that is trained jointly.
            views: Normalised views.
            quarter_turns: Rotation of each view in quarter turns, 0..3.
        """
        return cross_entropy(self.logits(model, views).float(), quarter_turns)

    def logits(
        self, model: Classifier, views: Float[Tensor, "views 3 h h"]
    ) -> Float[Tensor, "views 4"]:
        """Logits of the four rotations (0, 90, 180 and 270 degrees) for normalised views."""
        if self.tap is None:
            return self.branch(model.encoder(views))
        return self.branch(*tapped(model.encoder, [self.tap], views))

    def source_draw(
        self, images: Float[Tensor, "batch 3 h h"], key: Key, index: Int64[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "4*batch 3 h h"], Int64[Tensor, " 4*batch"]]:
        """One shifted, flipped view of each image in all four rotations, and the quarter turns.

        All views rotated by 0 degrees come first, then all by 90 degrees, and so on.
        """
        return all_rotations(shifted_crop(images, self.padding, key=key, index=index))


@dataclass(frozen=True)
class RotationOptions(ObjectiveOptions):
    """Options of `Rotation` at deployment.

    ```python
    AdapterSettings(steps=10, objective=RotationOptions(), update=SGD(1e-3))
    ```
    """

    kind: ClassVar[type[Objective]] = Rotation
