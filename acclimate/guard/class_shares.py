"""Limits to the chances of answers where it is known how often each class comes.

A model that answers with one class nine times in ten, where that class is one image in ten, is
wrong for most of them, whatever its confidence says. A stream in which nine images of ten are of
that class looks the same, so that this must be known of the stream, and cannot be seen.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.guard.signals import Recent

_SURE = 1.645  # standard errors by which a class may come more often than it should, for 0.95
_NONE = 1e-6


def answers_of(
    signals: Float[Tensor, "batch signals"], chances: Float[Tensor, "batch 2"]
) -> Float[Tensor, "batch answers"]:
    """Mark the class that each model answers with, for an average over the recent stream.

    Args:
        signals: From `acclimate.guard.signals.signals`.
        chances: Supposed chance that the frozen and the adapted answer is right.

    Returns:
        4 · classes columns. For the frozen and then for the adapted model: 1 for the class that it
        answers with, and 0 for the others; then the same times the answer's chance.
    """
    each = signals[:, 3:].unflatten(1, (2, -1))
    named = each.argmax(2, keepdim=True) == torch.arange(each.shape[2], device=each.device)
    given = named.to(signals.dtype)
    return torch.stack([given, given * chances[:, :, None]], 2).flatten(1)


def begun(shares: Float[Tensor, " both"], chances: Float[Tensor, "2"]) -> Float[Tensor, " answers"]:
    """The average of `answers_of` before any image.

    Args:
        shares: Share of each class among the frozen and then among the adapted answers; 2 · classes
            values.
        chances: As for `answers_of`, of all answers.
    """
    each = shares.view(2, -1)
    return torch.stack([each, each * chances[:, None]], 1).flatten()


def most_right(
    answers: Float[Tensor, "batch answers"], recent: Recent, shares: Float[Tensor, " classes"]
) -> tuple[Float[Tensor, "batch 2"], Float[Tensor, "batch 2"]]:
    """Compute the greatest share of such answers that can be right, and the share supposed so far.

    Of images that are answered with a class k at most as many are right as there are images of k:
    P(right | k is answered) ≤ P(k) / P(k is answered). Both are of the recent images, among which a
    class may by chance be more frequent than `shares` says. With n recent images and z = 1.6,
    z √(P(k) (1 − P(k)) / n) + z² / n are allowed for it; the second term is for rare classes.

    Args:
        answers: From `answers_of`.
        recent: Their average over the recent stream, these images included; 4 · classes values.
        shares: Greatest share of each class among images.

    Returns:
        Both for the frozen and the adapted answer to each image, 0..1.
    """
    named = answers.unflatten(1, (2, 2, -1))[:, :, 0]  # [batch, 2, classes]
    often, right = recent.mean.unflatten(0, (2, 2, -1)).unbind(1)  # [2, classes]
    by_chance = (shares * (1 - shares) / recent.images).sqrt()
    expected = shares + _SURE * by_chance + _SURE**2 / recent.images
    most = (expected / often.clamp(min=_NONE)).clamp(max=1)
    supposed = (right / often.clamp(min=_NONE)).clamp(min=_NONE)
    return (named * most).sum(2), (named * supposed).sum(2)


def limited(
    odds: Float[Tensor, " batch"],
    most: Float[Tensor, "batch 2"],
    frozen: Float[Tensor, " batch"],
    adapted: Float[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """Log-odds of the adapted answer to the frozen one, where neither is right too often.

    If one of two answers is right, and the first one for at most a share m of such images, the
    second one is right for the others. But often neither is right. So the odds move all the way
    only if the second answer has the greater chance, each chance taken by itself. Otherwise they
    move no further than to the odds of these two chances.

    Args:
        odds: Log-odds that the adapted answer is right, if one of the two is.
        most: From `most_right`.
        frozen: Chance that the frozen answer is right, with the limit heeded.
        adapted: The same of the adapted answer.
    """
    of_frozen, of_adapted = most.clamp(_NONE, 1 - _NONE).logit().unbind(1)
    by = (adapted.clamp(min=_NONE) / frozen.clamp(min=_NONE)).log()
    least = torch.where(by > 0, -of_frozen, torch.minimum(-of_frozen, by))
    greatest = torch.where(by < 0, of_adapted, torch.maximum(of_adapted, by))
    # Where both are limited, one of the two is hardly ever right: nothing but the chances is known.
    return torch.where(most.sum(1) < 1, by, odds.clamp(least, greatest))
