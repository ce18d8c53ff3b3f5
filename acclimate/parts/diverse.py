"""Selection of certain and diverse images, ROID's weights."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from acclimate.errors import InputError
from acclimate.objectives import Outcome
from acclimate.objectives.entropy import entropies
from acclimate.runtime.precision import at_least_float32


@dataclass(frozen=True)
class CertainAndDiverse:
    """Images that are certain, and unlike the mean prediction, weigh more (Marsden et al. 2024).

    An image's diversity is 1 − cos(p, m), m the running mean prediction, and its certainty −H(p);
    both are rescaled to 0..1 over the batch. Images below the mean diversity are left out. The
    others have the weight exp(diversity · certainty / temperature). The loss is divided by the
    number of all images.
    """

    temperature: float = 1 / 3
    """Temperature τ of the weights; the smaller, the more they differ."""
    momentum: float = 0.9
    """Share of the running mean prediction that stays with each batch."""

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        # Below it the weights exceed what float32 can hold.
        if not 0.02 <= self.temperature < float("inf"):
            raise InputError(
                f"temperature must be a finite number, 0.02 or more, not {self.temperature}."
            )
        if not 0 <= self.momentum <= 1:
            raise InputError(f"momentum must lie between 0 and 1, not {self.momentum}.")

    def build(self, classes: int, device: torch.device) -> "DiversityWeights":
        """Weights that begin with the uniform mean prediction."""
        return DiversityWeights(self, classes, device)


class DiversityWeights:
    """The weights of `CertainAndDiverse`, and the running mean prediction.

    Args:
        settings: Temperature and momentum.
        classes: Number of classes.
        device: Where the mean is kept.

    Attributes:
        mean: The running mean prediction.
    """

    def __init__(self, settings: CertainAndDiverse, classes: int, device: torch.device):
        self._settings = settings
        # A mean of small differences: in float64, for it costs nothing.
        self.mean: Tensor = torch.full((classes,), 1 / classes, dtype=torch.float64, device=device)

    def __call__(self, outcome: Outcome) -> Float[Tensor, " batch"]:
        """The weights of a batch, which then enters the mean.

        Raises:
            InputError: the objective computes no logits of the images.
        """
        if outcome.logits is None:
            raise InputError(
                "the selection certain-and-diverse needs the images' logits, which this objective "
                "does not compute; choose another selection."
            )
        logits = at_least_float32(outcome.logits)
        p = logits.softmax(1)
        diversity = rescaled(1 - cosine_similarity(self.mean.to(p.dtype), p, dim=1))
        certainty = rescaled(-entropies(logits))
        kept = diversity >= diversity.mean()
        self.mean.lerp_(p.mean(0).to(self.mean.dtype), 1 - self._settings.momentum)
        weights = (diversity * certainty / self._settings.temperature).exp()
        # A loss is divided by the number of images with a weight: here by that of all.
        return torch.where(kept, weights, 0) * kept.to(p.dtype).mean()

    def state(self) -> dict[str, Tensor]:
        """The running mean."""
        return {"mean": self.mean}


def rescaled(values: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Values moved and stretched to 0..1; zeros where all are the same, as of a single image.

    ```python
    rescaled(torch.tensor([2.0, 3.0, 6.0]))  # 0, 0.25, 1
    ```
    """
    least, most = values.aminmax()
    span = most - least
    return torch.where(span > 0, (values - least) / span, 0)
