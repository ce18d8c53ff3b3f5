"""The rule: which of several methods, from their scores on source images. It sees no label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

Name = TypeVar("Name")

SURE = 1.96
"""Standard errors to each side of a gain: a 95 % interval."""
TIE = 0.005
"""A cheaper method that is behind by no more than this, and not surely behind, is as good."""
ALIKE = 0.1
"""Difference in accuracy by which a condition is much like another one."""


@dataclass(frozen=True)
class Gain:
    """A mean difference of two models' scores on the same images, 0..1, with a paired interval."""

    value: float
    """The mean."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end."""

    def __str__(self) -> str:
        """In points."""
        return f"{100 * self.value:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


@dataclass(frozen=True, eq=False)
class Option(Generic[Name]):
    """A method that may be chosen."""

    name: Name
    scores: Float[Tensor, "conditions images"]
    """How well it answers for each source image under each condition, 0..1."""
    cost: float
    """Forward passes for each image."""
    refused: str = ""
    """Why it may not be chosen, whatever its scores; empty if it may."""


@dataclass(frozen=True)
class Choice(Generic[Name]):
    """What was chosen."""

    chosen: Name | None
    """The method; None is the frozen classifier."""
    gains: Mapping[Name, Gain]
    """Gain of each method over the frozen classifier."""
    best: Name | None
    """The method of the largest gain, chosen or not; None without methods."""


def choose(
    options: Sequence[Option[Name]],
    frozen: Float[Tensor, "conditions images"],
    weights: Float[Tensor, " conditions"],
) -> Choice[Name]:
    """Choose the method that gains most; of those that gain about as much the cheapest.

    A method may be chosen if the interval of its gain over the frozen classifier lies above 0 and
    nothing else speaks against it.

    ```python
    choose([Option("tent", torch.ones(2, 9), 3.0)], torch.zeros(2, 9), torch.full((2,), 0.5))
    ```

    Args:
        options: The methods.
        frozen: Scores of the frozen classifier.
        weights: How much each condition counts; they add up to 1.
    """
    gains = {option.name: gain(option.scores, frozen, weights) for option in options}
    order = sorted(options, key=lambda option: (-gains[option.name].value, option.cost))
    good = [option for option in order if gains[option.name].low > 0 and not option.refused]
    chosen = None
    if good:
        behind = {each.name: gain(good[0].scores, each.scores, weights) for each in good}
        tied = [o for o in good if behind[o.name].value <= TIE and behind[o.name].low <= 0]
        chosen = min(tied, key=lambda option: (option.cost, behind[option.name].value)).name
    return Choice(chosen, gains, order[0].name if order else None)


def gain(
    first: Float[Tensor, "conditions images"],
    second: Float[Tensor, "conditions images"],
    weights: Float[Tensor, " conditions"],
) -> Gain:
    """Mean of first minus second, with an interval over images.

    An image counts once: its scores under all conditions stand or fall together.
    """
    difference = weights.to(first) @ (first - second)  # [images]
    mean = float(difference.mean())
    few = len(difference) < 2
    width = torch.inf if few else SURE * float(difference.std()) / len(difference) ** 0.5
    return Gain(mean, mean - width, mean + width)


def alike(
    accuracies: Float[Tensor, " conditions"], estimated: float
) -> Float[Tensor, " conditions"]:
    """Weights of conditions in which the frozen classifier is about as good as it is estimated.

    A normal kernel of width `ALIKE`. Where no condition is near, the nearest count.

    ```python
    alike(torch.tensor([0.9, 0.5]), 0.9)  # nearly all on the first
    ```

    Args:
        accuracies: Of the frozen classifier under each condition.
        estimated: Of the frozen classifier on the images that are to come.
    """
    return (-0.5 * ((accuracies - estimated) / ALIKE).square()).softmax(0)
