"""How far a batch's statistics are trusted: measured on source images, without labels."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.backbones import Classifier
from acclimate.backbones.batch_norm import Trust
from acclimate.runtime.progress import Progress, silent
from acclimate.source.held_out import BATCH, Agreement, HeldOut, agreement, has_batch_norm

LIMITS = (1.0, 0.7, 0.5, 0.35, 0.2, 0.1, 0.05)
"""Weights of a large batch that are tried, in this order."""
PRIORS = (0.0, 1.0, 4.0, 16.0, 64.0)
"""Priors that are tried, with small batches."""
SMALL = (1, 8)
"""Numbers of images in a small batch."""
TOLERANCE = 0.01
"""Largest loss on clean images, as a difference of mean probabilities."""


def measure_trust(
    model: Classifier, held: HeldOut, progress: Progress = silent, name: str = "model"
) -> Trust | None:
    """The trust with which a model answers best for corrupted images, and well for clean ones.

    The limit is chosen with large batches: full trust in a batch's statistics can be wrong even if
    they are exact, because a corruption does more than to shift and scale features. The prior is
    chosen with small batches, whose statistics vary. Both are the most trustful values that agree
    as well as the best ones on corrupted images, and lose at most 0.01 on clean images.

    Args:
        model: In evaluation mode; as before on return.
        held: Source images. What the classifier answers for the clean ones stands for the truth.
        progress: Told of the trials done.
        name: What the progress calls the model.

    Returns:
        None for a model without batch norm.

    Raises:
        InputError: a layer that computes batch norm in a way of its own.
    """
    if not has_batch_norm(model):
        return None
    frozen = agreement(model, held, None)
    total = len(LIMITS) + len(PRIORS)
    done = 0

    def tried(trust: Trust, *batches: int) -> list[Agreement]:
        nonlocal done
        done += 1
        progress(f"trust in the {name}'s batches", done, total, f"limit {trust.limit:g}")
        return [agreement(model, held, trust, batch=batch) for batch in batches]

    least = frozen.clean - TOLERANCE
    limits = ((limit, tried(Trust(0, limit), BATCH)) for limit in LIMITS)
    limit = best(limits, least, at_least=frozen.shifted)
    if limit is None:
        return Trust(prior=0.0, limit=0.0)
    prior = best(((prior, tried(Trust(prior, limit), *SMALL)) for prior in PRIORS), least)
    return Trust(PRIORS[-1] if prior is None else prior, limit)


def best(
    trials: Iterable[tuple[float, list[Agreement]]], least: float, *, at_least: float = 0.0
) -> float | None:
    """The first value that agrees with the classifier as well as the best one on corrupted images.

    As well means: within one standard error of the mean difference over the images. Values are left
    out that lose on clean images. They come in an order in which the agreement rises and then
    falls: the search ends after two in a row that are worse than the best one.

    Args:
        trials: Values, the most adaptive first, each with what it reaches.
        least: Agreement on clean images below which a value is left out.
        at_least: Mean agreement on corrupted images that the best value must exceed.

    Returns:
        None if no value is good enough.
    """
    good: list[tuple[float, Tensor]] = []
    most, worse = at_least, 0
    for value, found in trials:
        each = torch.stack([agreement.each for agreement in found]).mean(0)  # [images]
        if each.mean() > most and min(agreement.clean for agreement in found) >= least:
            most, worse = float(each.mean()), 0
        else:
            worse += bool(good)
        if min(agreement.clean for agreement in found) >= least:
            good.append((value, each))
        if worse == 2:
            break
    if most == at_least:
        return None
    top = max((each for _, each in good), key=torch.mean)
    return next(value for value, each in good if _as_well(each, top))


def _as_well(each: Float[Tensor, " images"], top: Float[Tensor, " images"]) -> bool:
    lost = top - each
    return bool(lost.mean() <= lost.std() / len(lost) ** 0.5)
