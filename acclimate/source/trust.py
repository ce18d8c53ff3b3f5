"""How far a batch's statistics are trusted: measured on source images, without labels."""

from collections.abc import Iterable
from statistics import mean

from acclimate.backbones import Classifier
from acclimate.backbones.batch_norm import Trust, batch_norms
from acclimate.runtime.progress import Progress, silent
from acclimate.source.held_out import BATCH, FEW, Agreement, HeldOut, agreement, judged_by_both

LIMITS = (1.0, 0.7, 0.5, 0.35, 0.2, 0.1, 0.05)
"""Weights of a large batch that are tried, in this order."""
MIDDLE = 0.35
"""The limit with which the model is a judge, too: in the middle of those that are tried."""
PRIORS = (0.0, 1.0, 4.0, 16.0, 64.0)
"""Priors that are tried, with small batches."""
SMALL = (1, 8)
"""Numbers of images in a small batch."""
TOLERANCE = 0.02
"""Largest loss on clean images, as a difference of mean probabilities."""
ALIKE = 0.01
"""Differences on corrupted images that are of no account: the shifts to come are others."""


def measure_trust(
    model: Classifier, held: HeldOut, progress: Progress = silent, name: str = "model"
) -> Trust | None:
    """The trust with which a model answers best for corrupted images, and well for clean ones.

    The limit is chosen with large batches: full trust in a batch's statistics can be wrong even if
    they are exact, because a corruption does more than to shift and scale features. The prior is
    chosen with small batches, whose statistics vary. Both are the most trustful values that agree
    as well as the best ones on corrupted images, of those that lose at most 0.02 on clean images:
    where the corruptions here can hardly tell, worse ones may come. About the clean images the
    model judges, too, with a limit of `MIDDLE`; see `judged_by_both`.

    Args:
        model: In evaluation mode; as before on return.
        held: Source images, and what the classifier answers for the clean ones.
        progress: Told of the trials done.
        name: What the progress calls the model.

    Returns:
        None for a model without batch norm.

    Raises:
        InputError: a layer that computes batch norm in a way of its own.
    """
    if not batch_norms(model.encoder):
        return None
    held = judged_by_both(held, model, Trust(0.0, MIDDLE))
    few = held.first(FEW)
    total = len(LIMITS) + len(PRIORS)
    done = 0

    def tried(held: HeldOut, trust: Trust, *batches: int) -> list[Agreement]:
        nonlocal done
        done += 1
        progress(f"trust in the {name}'s batches", done, total, f"limit {trust.limit:g}")
        return [agreement(model, held, trust, batch=batch) for batch in batches]

    limits = ((limit, tried(held, Trust(0, limit), BATCH)) for limit in LIMITS)
    limit = best(limits, agreement(model, held, None))
    if limit is None:
        return Trust(prior=0.0, limit=0.0)
    priors = ((prior, tried(few, Trust(prior, limit), *SMALL)) for prior in PRIORS)
    prior = best(priors, agreement(model, few, None))
    return Trust(PRIORS[-1] if prior is None else prior, limit)


def best(trials: Iterable[tuple[float, list[Agreement]]], before: Agreement) -> float | None:
    """The first useful value that agrees as well as the best one on corrupted images.

    As well means: at most 0.01 less.

    Args:
        trials: As for `useful`, the most adaptive first.
        before: As for `useful`.

    Returns:
        None if no value is useful.
    """
    good = useful(trials, before)
    top = max((shifted for _, shifted in good), default=None)
    if top is None:
        return None
    return next(value for value, shifted in good if top - shifted <= ALIKE)


def useful(
    trials: Iterable[tuple[float, list[Agreement]]], before: Agreement
) -> list[tuple[float, float]]:
    """The values that agree better on corrupted images and lose at most 0.02 on clean ones.

    They come in an order in which the agreement rises and then falls: the search ends after two in
    a row that are worse than the best one.

    Args:
        trials: Values, each with what it reaches, for one size of a batch or several.
        before: What is reached without any.

    Returns:
        Each with its agreement on corrupted images, the mean over the sizes.
    """
    good: list[tuple[float, float]] = []
    top, worse = before.shifted, 0
    for value, found in trials:
        shifted = mean(each.shifted for each in found)
        lossless = all(before.clean - each.clean <= TOLERANCE for each in found)
        better = lossless and shifted > before.shifted
        if better:
            good.append((value, shifted))
        if better and shifted > top:
            top, worse = shifted, 0
        elif good:
            worse += 1
        if worse == 2:
            break
    return good
