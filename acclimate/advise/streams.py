"""Source images as they come to the methods that are tried: conditions, and the order."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from acclimate.randomness import key, permutation
from acclimate.source.held_out import CLEAN, SHIFTS, corrupted

Order = Literal["shuffled", "arrival"]
ORDERS: tuple[Order, ...] = ("shuffled", "arrival")
SEVERITIES = (1, 3, 5)
CONDITIONS = ((CLEAN, 0), *((name, severity) for name in SHIFTS for severity in SEVERITIES))
"""Corruption and severity; none is in a reported mean. They come one after another."""
SHIFTED = torch.tensor([name != CLEAN for name, _ in CONDITIONS])
"""Which of them are corruptions."""
_LAGS, _SURE = 8, 4.0


@dataclass(frozen=True, eq=False)
class SourceStream:
    """Source images in the order in which they come under each condition."""

    images: UInt8[Tensor, "n channels height width"]
    """Clean, in this order."""
    truth: Float[Tensor, "n classes"]
    """Probabilities of each image's classes, as the models see the clean image."""
    by_class: bool
    """Whether images of one class come together."""

    def under(self, condition: tuple[str, int]) -> UInt8[Tensor, "n channels height width"]:
        """The images under a condition."""
        return corrupted(self.images, *condition)

    def score(self, logits: Float[Tensor, "n classes"]) -> Float[Tensor, " n"]:
        """The truth's probability of each answer."""
        return self.truth.gather(1, logits.argmax(1, keepdim=True))[:, 0]


def source_stream(
    images: UInt8[Tensor, "n channels height width"],
    frozen: Float[Tensor, "n classes"],
    adapted: Float[Tensor, "n classes"],
    order: Order,
    by_class: bool | None,
) -> SourceStream:
    """Source images in an order.

    Args:
        images: In the order in which they were given.
        frozen: Logits of the frozen classifier for them, clean.
        adapted: Logits of a model with statistics of the batch, so that neither side judges alone.
        order: ``"shuffled"``, or ``"arrival"``: as the target images come.
        by_class: Whether target images of one class come together; None if there are none: then
            ``"arrival"`` is the order in which the images were given.
    """
    count = len(images)
    rows = torch.arange(count)
    if order == "shuffled" or by_class is False:
        rows = permutation(key(0, "advise", "order"), count)
    elif by_class:
        rows = frozen.argmax(1).argsort(stable=True)
    truth = frozen.softmax(1).lerp(adapted.softmax(1), 0.5)
    return SourceStream(images[rows], truth[rows], bool(by_class) and order == "arrival")


def comes_by_class(answers: Int64[Tensor, " n"]) -> bool:
    """Whether images of one class come together, by the answers in the order of arrival.

    Neighbours, up to eight images apart, then have the same answer more often than images at
    random, however wrong the answers are and however few classes they have.

    ```python
    comes_by_class(torch.arange(500) // 50)  # True
    ```
    """
    count = len(answers)
    if count < 4 * _LAGS:
        return False
    shares = answers.bincount().double() / count
    by_chance = float(shares.square().sum())
    same = torch.cat([answers[lag:] == answers[:-lag] for lag in range(1, _LAGS + 1)])
    deviation = (max(by_chance * (1 - by_chance), 1e-12) / len(same)) ** 0.5
    return float(same.double().mean()) - by_chance > _SURE * deviation
