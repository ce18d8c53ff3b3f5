"""Marginal entropy: the mean prediction over many views of one image is certain (MEMO)."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import log_softmax

from acclimate.backbones import Classifier
from acclimate.errors import InputError
from acclimate.objectives.entropy import entropies
from acclimate.objectives.objective import Objective, ObjectiveOptions
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import Key
from acclimate.runtime.precision import at_least_float32
from acclimate.views import augmix_views


def marginal_entropies(
    logits: Float[Tensor, "batch views classes"],
) -> Float[Tensor, " batch"]:
    """Entropy of the mean prediction over the views of each image (MEMO, Eq. 2 and 3).

    ```python
    losses = marginal_entropies(model(views).unflatten(0, (-1, 32)))
    ```

    Args:
        logits: Logits of each view, of any float type; computed in at least float32.

    Returns:
        In nats, from 0, where all views agree and are certain, to log(classes).
    """
    logs = log_softmax(at_least_float32(logits), dim=2)
    return entropies(logs.logsumexp(1))  # of unnormalised logarithms, as any logits are


class MarginalEntropy(Objective):
    """Entropy of the mean prediction over AugMix views of an image (MEMO, Zhang et al. 2022).

    It has no modules and needs no source images.

    ```python
    objective = MarginalEntropy(model, preprocessing, views=32)
    (views,) = objective.draw(images, key(0), torch.arange(len(images)))
    losses = objective(model, preprocessing.normalize(views))
    ```

    Args:
        model: Not used.
        preprocessing: Not used.
        views: Number of views of each image.
        smallest_crop: Smallest share of the area that a view keeps; None shifts instead.
    """

    replayable = True

    def __init__(
        self,
        model: Classifier,
        preprocessing: Preprocessing,
        *,
        views: int = 32,
        smallest_crop: float | None = None,
    ):
        super().__init__()
        self.views: int = views
        self.smallest_crop: float | None = smallest_crop

    def draw(
        self, images: Float[Tensor, "batch 3 h w"], key: Key, index: Int64[Tensor, " batch"]
    ) -> tuple[Tensor, ...]:
        """AugMix views: all of the first image, then all of the second, and so on."""
        crop = self.smallest_crop
        return (augmix_views(images, key=key, index=index, count=self.views, smallest_crop=crop),)

    def forward(
        self, model: Classifier, views: Float[Tensor, "views 3 h w"]
    ) -> Float[Tensor, " batch"]:
        """The loss of each image, from its normalised views."""
        return marginal_entropies(model(views).unflatten(0, (-1, self.views)))


@dataclass(frozen=True)
class MarginalEntropyOptions(ObjectiveOptions):
    """Options of `MarginalEntropy` at deployment."""

    views: int = 32
    """Number of views of each image."""
    smallest_crop: float | None = None
    """Smallest share of the image's area that a view keeps before it is resized; None shifts the
    image by at most an eighth of its side instead."""
    kind: ClassVar[type[Objective]] = MarginalEntropy

    def check(self) -> None:
        """Raise an InputError if there is no view, or a crop is no share of the image."""
        if not 1 <= self.views <= 1000:
            raise InputError(f"views must be 1 to 1000, not {self.views}.")
        if self.smallest_crop is not None and not 0 < self.smallest_crop <= 1:
            raise InputError(
                f"smallest_crop must lie above 0 and at most at 1, not {self.smallest_crop}."
            )
