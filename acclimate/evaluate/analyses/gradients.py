"""Does the self-supervised task pull where the main task would (TTT, Sun et al. 2020, § 4)?"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from scipy.stats import pearsonr
from torch import Tensor
from torch.nn.functional import cross_entropy

from acclimate.bundle import Bundle
from acclimate.data import LabelledImages, Shift, streams
from acclimate.data.classes import match_classes
from acclimate.errors import InputError
from acclimate.randomness import key


@dataclass(frozen=True)
class Correlation:
    """Pearson's r between two measurements of the same sets."""

    r: float
    low: float
    high: float
    """The limits of its 95 % interval (Fisher's transformation)."""


def agreement(
    bundle: Bundle, data: LabelledImages, shift: Shift, *, seed: int = 0
) -> Float[Tensor, " n"]:
    """The inner product of the two losses' gradients on the shared parameters, for each image.

    ⟨∇ cross entropy, ∇ self-supervised loss⟩ over those parameters of the encoder that both reach,
    before any step, as in TTT's Figure 4 and Theorem 1. The labels are used for looking alone.

    Args:
        bundle: Its classifier and its objective, such as joint training makes.
        data: Test images.
        shift: What happens to them.
        seed: Of corruption and views.

    Returns:
        In the order of the data set.

    Raises:
        InputError: the bundle has no objective that can learn from one image.
    """
    products = torch.zeros(len(data.images))
    for index, main, own in gradients(bundle, data, shift, seed=seed):
        products[index] = main @ own
    return products


def gradients(
    bundle: Bundle, data: LabelledImages, shift: Shift, *, seed: int = 0
) -> Iterator[tuple[Int64[Tensor, "1"], Float[Tensor, " weights"], Float[Tensor, " weights"]]]:
    """For each image its number, and the gradients of cross entropy and of the objective.

    As for `agreement`, which multiplies them; images come in the order of the stream. Afterwards
    the classifier is in evaluation mode, and none of its weights asks for gradients.
    """
    objective = bundle.objective
    if objective is None or objective.min_images > 1:
        raise InputError(
            "gradients need a bundle whose objective learns from single images: ttt or ttt-mae."
        )
    match = match_classes(bundle.classes, data.classes, whose="the bundle", data=data.name)
    labels = match.outputs[data.labels]
    model = bundle.classifier.eval().requires_grad_(False)
    parameters = list(model.encoder.requires_grad_(True).parameters())
    try:
        for arrived in streams.shuffled(data.images, shift, batch=1, seed=seed):
            index, label = arrived.numbers, labels[arrived.numbers]
            unit = bundle.preprocessing.unit(arrived.images)
            views, *drawn = objective.draw(unit, key(seed, "adapt", 0), index)
            losses = (
                cross_entropy(model(bundle.preprocessing.normalize(unit)), label),
                objective(model, bundle.preprocessing.normalize(views), *drawn),
            )
            found = (torch.autograd.grad(loss, parameters, allow_unused=True) for loss in losses)
            both = [pair for pair in zip(*found) if pair[0] is not None and pair[1] is not None]
            main, own = (torch.cat([part.flatten() for part in parts]) for parts in zip(*both))
            yield index, main, own
    finally:
        model.requires_grad_(False)


def correlation(first: Sequence[float], second: Sequence[float]) -> Correlation:
    """Pearson's r of paired values, with its interval; nan where one of them does not vary.

    Raises:
        ValueError: fewer than four pairs.
    """
    if len(first) < 4:
        raise ValueError(f"a correlation with an interval needs four pairs, not {len(first)}.")
    if min(max(first) - min(first), max(second) - min(second)) == 0:
        return Correlation(math.nan, math.nan, math.nan)
    found = pearsonr(first, second)
    low, high = found.confidence_interval(0.95)
    return Correlation(float(found.statistic), float(low), float(high))  # type: ignore[attr-defined]
