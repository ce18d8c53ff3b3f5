"""Soft likelihood ratio and consistency with an augmented view (ROID, Marsden et al. 2024)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import log_softmax

from acclimate.backbones import Classifier
from acclimate.backbones.batch_norm import own_statistics
from acclimate.errors import InputError
from acclimate.objectives.objective import Objective, ObjectiveOptions, Outcome
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import Key
from acclimate.runtime.precision import at_least_float32
from acclimate.views import SimCLRViews, simclr_views

_VIEWS = SimCLRViews(
    smallest_crop=0.8,
    brightness=0.4,
    contrast=0.3,
    saturation=0.5,
    hue=0.06,
    jitter_probability=1.0,
    grey_probability=0.0,
)
"""Colours change as in the release; crops are about as large as its shifts and scales."""


def soft_likelihood_ratios(
    logits: Float[Tensor, "batch classes"], *, clip: float = 0.99
) -> Float[Tensor, " batch"]:
    """The soft likelihood ratio −Σ_c q_c log(q_c / (1 − q_c) + 1e-5), q = min(p, clip).

    Unlike the entropy's, its gradient does not vanish as a prediction becomes certain. Entries
    above ``clip`` have none.

    ```python
    losses = soft_likelihood_ratios(model(images))  # [batch]
    ```

    Args:
        logits: Logits of any float type. The ratio is computed in at least float32.
        clip: Largest probability, below 1.
    """
    q = at_least_float32(logits).softmax(1).clamp(max=clip)
    return -(q * (q / (1 - q) + 1e-5).log()).sum(1)


def symmetric_cross_entropies(
    first: Float[Tensor, "batch classes"], second: Float[Tensor, "batch classes"]
) -> Float[Tensor, " batch"]:
    """Half the sum of both cross entropies, −½ Σ p log q − ½ Σ q log p, of each image.

    ```python
    losses = symmetric_cross_entropies(model(augmented), model(images))  # [batch]
    ```

    Args:
        first: Logits of q; gradients reach both.
        second: Logits of p.
    """
    log_q, log_p = (log_softmax(at_least_float32(logits), dim=1) for logits in (first, second))
    return -0.5 * (log_p.exp() * log_q + log_q.exp() * log_p).sum(1)


class LikelihoodRatio(Objective):
    """Soft likelihood ratio of the predictions, plus their consistency with an augmented view.

    The view is a random crop, mirrored or not, in other colours. Batch norm normalises the views by
    their own statistics, which do not enter its running averages. The consistency's gradient
    reaches the predictions of both.

    ```python
    objective = LikelihoodRatio(model, preprocessing, consistency=0.0)
    outcome = objective(model, preprocessing.normalize(images))
    outcome.losses.mean().backward()
    ```

    Args:
        model: Not used.
        preprocessing: Not used.
        clip: Largest probability of the ratio.
        consistency: Weight of the consistency. With 0 there is no view, and no pass for it.

    Raises:
        InputError: a clip outside 0..1, or a weight that is negative or not finite.
    """

    gives_logits = True
    gives_features = True
    replayable = True

    def __init__(
        self,
        model: Classifier,
        preprocessing: Preprocessing,
        *,
        clip: float = 0.99,
        consistency: float = 1.0,
    ):
        super().__init__()
        if not (0 < clip < 1 and 0 <= consistency < math.inf):
            raise InputError(
                f"the likelihood ratio needs a clip above 0 and below 1 and a consistency weight of"
                f" 0 or more, not {clip} and {consistency}."
            )
        self.clip: float = clip
        self.consistency: float = consistency

    def draw(
        self, images: Float[Tensor, "batch 3 h w"], key: Key, index: Int64[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "views 3 h w"]]:
        """The images, followed by a random view of each where there is a consistency."""
        if not self.consistency:
            return (images,)
        return (torch.cat([images, simclr_views(images, _VIEWS, key=key, index=index)]),)

    def forward(self, model: Classifier, views: Float[Tensor, "views 3 h w"]) -> Outcome:
        """The loss of each image, and logits and features of the images.

        Args:
            model: The classifier that adapts.
            views: From `draw`, normalised.
        """
        images, *augmented = views.chunk(2) if self.consistency else (views,)
        features = model.encoder(images)
        logits = model.head(features)
        losses = soft_likelihood_ratios(logits, clip=self.clip)
        if augmented:
            with own_statistics(model):
                others = model(augmented[0])
            losses = losses + self.consistency * symmetric_cross_entropies(others, logits)
        return Outcome(losses, logits, features)


@dataclass(frozen=True)
class LikelihoodRatioOptions(ObjectiveOptions):
    """Options of `LikelihoodRatio` at deployment.

    ```python
    AdapterSettings(steps=1, objective=LikelihoodRatioOptions(consistency=0.0), update=Adam(3e-3))
    ```
    """

    clip: float = 0.99
    """Largest probability of the soft likelihood ratio, above 0 and below 1."""
    consistency: float = 1.0
    """Weight of the consistency with an augmented view; 0 leaves the view and its pass out."""

    kind: ClassVar[type[Objective]] = LikelihoodRatio
