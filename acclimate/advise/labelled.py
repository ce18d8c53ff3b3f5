"""What labels say of candidates, beside the advice, which is made before and never reads them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from acclimate.advise.advice import Advice
from acclimate.advise.candidates import Candidate
from acclimate.advise.choose import Gain, gain


@dataclass(frozen=True)
class Labelled:
    """Accuracies on the labelled target images."""

    frozen: float
    """The frozen classifier's, 0..1."""
    gains: Mapping[Candidate, Gain]
    """Each candidate's over the frozen classifier."""

    @property
    def best(self) -> Candidate | None:
        """The candidate that a table with labels would pick; None is the frozen classifier."""
        best = max(self.gains, key=lambda name: self.gains[name].value)
        return best if self.gains[best].value > 0 else None


def by_labels(advice: Advice, labels: Int64[Tensor, " m"]) -> Labelled:
    """Score the answers that the advice was made from.

    ```python
    by_labels(advise(bundle, source, target), labels).best
    ```

    Args:
        advice: Made with target images.
        labels: The bundle's output for each of the target images that were given.
    """
    assert advice.target is not None
    own = labels[advice.target.rows]
    frozen = (advice.target.frozen.argmax(1) == own).double()[None]  # [1, images]
    gains = {
        trial.candidate: gain(
            (trial.target.logits.argmax(1) == own).double()[None], frozen, torch.ones(1)
        )
        for trial in advice.trials
        if trial.target is not None
    }
    return Labelled(float(frozen.mean()), gains)
