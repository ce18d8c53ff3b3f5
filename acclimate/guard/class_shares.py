"""What follows where it is known how often each class comes: answers given too often are wrong.

A model that answers with one class nine times in ten, where that class is one image in ten, is
wrong for most of them, whatever its confidence says. Nobody can tell this from a stream of one
class without knowing that the stream is none.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.guard.signals import Recent

_SURE = 1.645  # standard errors by which a class may come more often than it should, for 0.95
_NONE = 1e-9


def answers_of(
    signals: Float[Tensor, "batch signals"], chances: Float[Tensor, "batch 2"]
) -> Float[Tensor, "batch answers"]:
    """What is averaged over the recent stream.

    Args:
        signals: From `acclimate.guard.signals.signals`.
        chances: Supposed chance that the frozen and the adapted answer is right.

    Returns:
        For the frozen and then for the adapted model: 1 for the class that it answers with, and 0
        for the others; then the same times the answer's chance.
    """
    each = signals[:, 3:].unflatten(1, (2, -1))
    named = each.argmax(2, keepdim=True) == torch.arange(each.shape[2], device=each.device)
    given = named.to(signals.dtype)
    return torch.stack([given, given * chances[:, :, None]], 2).flatten(1)


def begun(shares: Float[Tensor, " both"], chances: Float[Tensor, "2"]) -> Float[Tensor, " answers"]:
    """The average of `answers_of` before any image.

    Args:
        shares: Share of each class among the frozen and then among the adapted answers.
        chances: As for `answers_of`, of all answers.
    """
    each = shares.view(2, -1)
    return torch.stack([each, each * chances[:, None]], 1).flatten()


def most_right(
    answers: Float[Tensor, "batch answers"], recent: Recent, shares: Float[Tensor, " classes"]
) -> tuple[Float[Tensor, "batch 2"], Float[Tensor, "batch 2"]]:
    """The greatest share of such answers that can be right, and the share that was supposed.

    Of images that are answered with a class k at most as many are right as there are images of k:
    P(right | k is answered) ≤ P(k) / P(k is answered). Both are of the recent images, among which a
    class may by chance be more frequent than `shares` says: 1.6 standard errors are allowed for it.

    Args:
        answers: From `answers_of`.
        recent: Their average over the recent stream, these images included.
        shares: Share of each class among images; sums to 1.

    Returns:
        Both for the frozen and the adapted answer to each image, 0..1.
    """
    named = answers.unflatten(1, (2, 2, -1))[:, :, 0]  # [batch, 2, classes]
    often, right = recent.mean.unflatten(0, (2, 2, -1)).unbind(1)  # [2, classes]
    expected = shares + _SURE * (shares * (1 - shares) / recent.images).sqrt()
    most = (expected / often.clamp(min=_NONE)).clamp(max=1)
    supposed = (right / often.clamp(min=_NONE)).clamp(min=_NONE)
    return (named * most).sum(2), (named * supposed).sum(2)


def limited(
    odds: Float[Tensor, " batch"], most: Float[Tensor, "batch 2"]
) -> Float[Tensor, " batch"]:
    """Log-odds of the adapted answer to the frozen one, where neither is right more often than may.

    What one answer loses goes to the other, since one of the two is supposed to be right. An answer
    that is hardly ever right so gives way to one of which nothing is known.

    Args:
        odds: Log-odds that the adapted answer is right, if one of the two is.
        most: From `most_right`.
    """
    frozen, adapted = most.clamp(min=_NONE).unbind(1)
    least = ((1 - frozen).clamp(min=_NONE) / frozen).log()
    greatest = (adapted / (1 - adapted).clamp(min=_NONE)).log()
    both = (adapted / frozen).log()  # where neither can be right as often as one of them is
    return torch.where(frozen + adapted < 1, both, odds.clamp(least, greatest))
