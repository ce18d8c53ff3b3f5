"""Estimates of both models' accuracy on the recent stream, with intervals and without labels."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from acclimate.guard.calibration import Calibration, by_agreement, seen
from acclimate.guard.labels import bias
from acclimate.guard.signals import Recent

SURE = 0.9
"""Share of intervals that are to hold the accuracy."""
_WIDTH = 1.645  # standard errors to each side, for 0.9


@dataclass(frozen=True)
class Range:
    """An accuracy and where it lies in 9 of 10 cases, 0..1."""

    value: float
    """The estimate."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""

    def __str__(self) -> str:
        """In percent."""
        return f"{100 * self.value:.0f} % ({100 * self.low:.0f} to {100 * self.high:.0f})"


@dataclass(frozen=True)
class Estimate:
    """Estimated accuracies of the recent stream."""

    frozen: Range
    """Accuracy of the frozen classifier."""
    adapted: Range
    """Accuracy of the adapted model."""
    guarded: Range
    """Accuracy of the guarded answers; in the shadow, of those that would be given."""
    images: float
    """Number of recent images that they rest on."""

    def __repr__(self) -> str:
        return (
            f"Estimate(frozen {self.frozen}, adapted {self.adapted}, guarded {self.guarded}, by "
            f"{self.images:.0f} images)"
        )


@dataclass(frozen=True)
class Views:
    """Chances that answers to images are right; the frozen answer is seen in two ways."""

    own: Float[Tensor, " batch"]
    """Chance of the frozen answer, by its own confidence."""
    other: Float[Tensor, " batch"]
    """Chance of the frozen answer, by the adapted one; as `own` where there is none."""
    adapted: Float[Tensor, " batch"]
    """Chance of the adapted answer."""

    @property
    def frozen(self) -> Float[Tensor, " batch"]:
        """Chance of the frozen answer: the mean of both ways."""
        return (self.own + self.other) / 2

    def lowered(self, by: Float[Tensor, "batch 2"]) -> "Views":
        """The same, those of the frozen and of the adapted answer multiplied by a factor each."""
        frozen, adapted = by.unbind(1)
        return Views(self.own * frozen, self.other * frozen, self.adapted * adapted)


def views(
    calibration: Calibration,
    signals: Float[Tensor, "batch signals"],
    recent: Float[Tensor, " signals"],
    alike: Float[Tensor, " sets"],
    answered: Bool[Tensor, " batch"],
) -> Views:
    """Chances of both answers, by the calibration.

    Args:
        calibration: Of the model that adapts.
        signals: From `acclimate.guard.signals.signals`.
        recent: Their mean over the recent stream.
        alike: How much the recent stream looks like each set of the calibration.
        answered: Whether there is an adapted answer.
    """
    x, classes = seen(signals, recent), (signals.shape[1] - 3) // 2
    own, adapted = (curve(x, alike) for curve in (calibration.frozen, calibration.adapted))
    other = by_agreement(signals[:, 2], adapted, classes)
    return Views(own, torch.where(answered, other, own), adapted)


def chances(seen: Views, adapted: Float[Tensor, " batch"]) -> Float[Tensor, "batch 5"]:
    """Chance that the frozen, the adapted and the given answer to each image is right.

    How far the two views of the frozen answer are apart tells how little is known.

    Args:
        seen: From `views`.
        adapted: 1 where the adapted answer is given, 0 where the frozen one is.

    Returns:
        The three chances; then half of the own view less the other, with its sign, for the frozen
        and for the given answer.
    """
    apart, given = (seen.own - seen.other) / 2, seen.frozen.lerp(seen.adapted, adapted)
    return torch.stack([seen.frozen, seen.adapted, given, apart, apart * (1 - adapted)], 1)


def estimate(calibration: Calibration, recent: Recent, known: Recent) -> Estimate:
    """The accuracies of the recent stream.

    The interval adds variances: that of the share of right answers among so many images; that of
    the calibration under a shift it has not seen, as measured when it was made; and, for frozen
    answers, what the two views of them are apart. Labels correct the calibration and make the last
    two smaller.

    Args:
        calibration: Of the model that adapts.
        recent: The average of `chances`, and of 1 where there is an adapted answer: the adapted
            model's accuracy rests on these images alone.
        known: What labels have shown; `acclimate.guard.labels.Labels.right`.
    """
    images = float(recent.images)
    frozen_apart, given_apart = recent.mean[3:5]
    apart = torch.stack([frozen_apart, torch.zeros_like(frozen_apart), given_apart])
    errors = torch.cat([calibration.error, calibration.error.amax()[None]])
    shift, errors = bias(known, (errors**2 + apart**2).sqrt())
    *means, _, _, heard = recent.mean.double().tolist()
    counts = images, images * heard, images
    values = (mean + by for mean, by in zip(means, shift.double().tolist(), strict=True))
    ranges = map(_range, values, errors.double().tolist(), counts)
    frozen, adapted, guarded = ranges
    return Estimate(frozen, adapted, guarded, images)


def _range(value: float, error: float, images: float) -> Range:
    """An estimate with its interval, within 0..1."""
    value = min(max(value, 0.0), 1.0)
    width = _WIDTH * (error**2 + max(value * (1 - value), 0.01) / max(images, 1.0)) ** 0.5
    return Range(value, max(value - width, 0.0), min(value + width, 1.0))
