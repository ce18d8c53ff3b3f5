"""Entropy of the mean prediction over the most certain views of an image (TPT)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from acclimate.backbones import Classifier
from acclimate.backbones.zero_shot import ContextHead, ZeroShotHead
from acclimate.errors import InputError
from acclimate.objectives.entropy import entropies
from acclimate.objectives.marginal import marginal_entropies
from acclimate.objectives.objective import Objective, ObjectiveOptions
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import Key
from acclimate.views import SimCLRViews, simclr_views


def most_certain(
    logits: Float[Tensor, "batch views classes"], share: float
) -> Int64[Tensor, "batch chosen"]:
    """The views of each image whose predictions have the lowest entropy, the lowest first.

    ```python
    chosen = most_certain(logits, 0.1)  # 6 of 64 views
    ```

    Args:
        logits: Logits of each view.
        share: The share of views, rounded down, but at least one.
    """
    count = max(1, int(share * logits.shape[1]))
    each = entropies(logits.flatten(0, 1)).view(logits.shape[:2])
    return each.topk(count, dim=1, largest=False).indices


class ConfidentViews(Objective):
    """Entropy of the mean prediction over an image's most certain views (TPT, Shu et al. 2022).

    The prompts' first words become vectors that can move; the image encoder does not move.

    ```python
    objective = ConfidentViews(model, preprocessing, views=64)
    objective.equip(model)
    views, = objective.draw(images, key(0), torch.arange(len(images)))
    losses = objective(model, preprocessing.normalize(views))
    ```

    Args:
        model: A zero-shot classifier with a text encoder; not kept.
        preprocessing: Not used.
        views: Number of views of each image; the first is the image itself.
        share: Share of views that are kept: those of lowest entropy.
        smallest_crop: Smallest share of the area that a view keeps.

    Raises:
        InputError: the model is no zero-shot classifier, or has no text encoder.
    """

    replayable = True

    def __init__(
        self,
        model: Classifier,
        preprocessing: Preprocessing,
        *,
        views: int = 64,
        share: float = 0.1,
        smallest_crop: float = 0.08,
    ):
        super().__init__()
        ContextHead(zero_shot_head(model))
        self.views: int = views
        self.share: float = share
        self.smallest_crop: float = smallest_crop

    def equip(self, model: Classifier) -> None:
        """Let the head's prompts begin with vectors that can move."""
        model.head = ContextHead(zero_shot_head(model))

    def draw(
        self, images: Float[Tensor, "batch 3 h w"], key: Key, index: Int64[Tensor, " batch"]
    ) -> tuple[Tensor, ...]:
        """Each image and its random crops and flips: all of the first image, then the second's."""
        settings = SimCLRViews(self.smallest_crop, jitter_probability=0, grey_probability=0)
        others = simclr_views(images, settings, key=key, index=index, count=self.views - 1)
        every = torch.cat([images, others]).unflatten(0, (self.views, -1))  # [views, batch, ...]
        return (every.transpose(0, 1).flatten(0, 1),)

    def forward(
        self, model: Classifier, views: Float[Tensor, "views 3 h w"]
    ) -> Float[Tensor, " batch"]:
        """The loss of each image, from its normalised views."""
        with torch.no_grad():
            features = model.encoder(views)
        logits = model.head(features).unflatten(0, (-1, self.views))  # [batch, views, classes]
        chosen = most_certain(logits.detach(), self.share)
        return marginal_entropies(logits.take_along_dim(chosen[..., None], dim=1))


@dataclass(frozen=True)
class ConfidentViewsOptions(ObjectiveOptions):
    """Options of `ConfidentViews` at deployment."""

    views: int = 64
    """Number of views of each image; the first is the image itself."""
    share: float = 0.1
    """Share of views that are kept, those of lowest entropy; at least one is."""
    smallest_crop: float = 0.08
    """Smallest share of the image's area that a view keeps before it is resized."""
    kind: ClassVar[type[Objective]] = ConfidentViews

    def check(self) -> None:
        """Raise an InputError if there are no views, or a share is none."""
        if not 2 <= self.views <= 1000:
            raise InputError(f"views must be 2 to 1000, not {self.views}.")
        if not 0 < self.share <= 1:
            raise InputError(f"share must lie above 0 and at most at 1, not {self.share}.")
        if not 0 < self.smallest_crop <= 1:
            raise InputError(
                f"smallest_crop must lie above 0 and at most at 1, not {self.smallest_crop}."
            )


def zero_shot_head(model: Classifier) -> ZeroShotHead:
    """The head of a zero-shot classifier.

    Raises:
        InputError: the model is another classifier.
    """
    if not isinstance(model.head, ZeroShotHead):
        raise InputError(
            "the objective compares images with texts, and this classifier has none; make a bundle "
            "with acclimate zero-shot."
        )
    return model.head
