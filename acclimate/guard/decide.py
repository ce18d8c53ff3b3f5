"""The decision about a batch: which model answers, what becomes of the learning, and why."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from acclimate.errors import InputError
from acclimate.guard.calibration import HALF_LIFE, Calibration
from acclimate.guard.estimate import Estimate, chances, estimate
from acclimate.guard.signals import Recent, features, fewer_classes, signals

Answer = Literal["frozen", "each", "adapted"]
Learning = Literal["go on", "roll back"]

_START = 16.0  # images that the recent stream begins with, as if they were clean source images
_BEFORE = 0.4, 0.2  # share of the adapted answer, and of images that differ, before any image


@dataclass(frozen=True)
class Rules:
    """Thresholds of the decision. The share is that of `Verdict.share`."""

    frozen_below: float = 0.45
    """Below this share all answers are the frozen classifier's."""
    adapted_above: float = 0.65
    """Above this share all answers are the adapted model's; between the two, each image has the
    answer that is more probably right."""
    margin: float = 0.2
    """Between the two, an image gets the adapted answer if its log-odds exceed this."""
    worse_below: float = 0.33
    """Below this share what was learned is rolled back."""
    fewest_classes: float = 0.5
    """An adapted model that answers with less than this share of the frozen classifier's classes
    has collapsed."""
    estimate_half_life: float = 350.0
    """Half-life of the estimates of accuracy, in images."""

    def check(self) -> None:
        """Refuse settings that cannot be meant.

        Raises:
            InputError: shares out of order, or a half-life that is not positive.
        """
        if not 0 <= self.worse_below <= self.frozen_below <= self.adapted_above <= 1:
            raise InputError(
                "the guard's shares must be in the order worse_below, frozen_below, adapted_above, "
                f"from 0 to 1, not {self.worse_below}, {self.frozen_below}, {self.adapted_above}."
            )
        if not self.estimate_half_life > 0:
            raise InputError(
                f"estimate_half_life must be more than 0, not {self.estimate_half_life}."
            )


@dataclass(frozen=True)
class GuardState:
    """The memory of the guard: three averages of fixed size, changed in place."""

    recent: Recent
    """Average of the signals."""
    share: Recent
    """Average of two values: 1 where answers differ, and there the chance of the adapted one."""
    right: Recent
    """Average of the chances that the answers are right."""

    @classmethod
    def new(cls, calibration: Calibration) -> "GuardState":
        """The state before any image."""
        share, differ = _BEFORE
        usual = calibration.usual.clone()
        x, agree = usual[None], torch.zeros(1, device=usual.device)
        return cls(
            Recent.of(usual, _START),
            Recent.of(usual.new_tensor([share * differ, differ]), _START),
            Recent.of(chances(calibration, x, usual, agree)[0], 1.0),
        )

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {
            f"{name}.{part}": getattr(getattr(self, name), part)
            for name in ("recent", "share", "right")
            for part in ("total", "weight", "squares")
        }


@dataclass(frozen=True)
class Verdict:
    """The guard's decision about a batch."""

    use_adapted: Bool[Tensor, " batch"]
    """Which images get the adapted answer; the others get the frozen one."""
    answer: Answer
    """The model that answers for the batch; with ``each``, the more probable one for each image."""
    learning: Learning
    """``"roll back"`` takes the adapter back to its last good state."""
    reason: str
    """Why, in one sentence."""
    share: float
    """Estimated share of the adapted model among right answers, where two differ and one is right:
    of the recent images."""
    agreement: float
    """Share of recent images on which both models agree."""
    classes: float
    """Number of classes that the adapted model answers with, as a share of the frozen ones."""
    estimate: Estimate
    """Accuracies of the recent stream."""


def judge(
    frozen: Float[Tensor, "batch classes"],
    adapted: Float[Tensor, "batch classes"],
    kept: Bool[Tensor, " batch"],
    calibration: Calibration,
    state: GuardState,
    rules: Rules,
    answered: Bool[Tensor, " batch"] | None = None,
) -> Verdict:
    """Decide about a batch, and remember it.

    ```python
    verdict = judge(frozen, adapted, ~blank(images), calibration, state, Rules())
    logits = torch.where(verdict.use_adapted[:, None], adapted, frozen)
    ```

    Args:
        frozen: Logits of the frozen classifier.
        adapted: Logits of the adapted model; anything finite where it did not see the image.
        kept: Images that the adapted model saw. The others are no evidence.
        calibration: Of the model that adapts.
        state: What was seen before; changed in place.
        rules: Thresholds.
        answered: Images that have an adapted answer, such as repetitions of one that was seen; the
            others get the frozen one. None stands for those that it saw.
    """
    answered = kept if answered is None else answered
    each, counts = signals(frozen, adapted), kept.to(calibration.usual.dtype)
    state.recent.add(each, counts, HALF_LIFE)
    recent = state.recent.mean
    odds = calibration.better.log_odds(features(each, recent))
    differ = 1 - each[:, 2]
    state.share.add(torch.stack([odds.sigmoid() * differ, differ], 1), counts, HALF_LIFE)
    first, second = state.share.mean.double().tolist()
    share = (first + 1e-12 * _BEFORE[0]) / (second + 1e-12)
    agreement, classes = float(recent[2]), float(fewer_classes(recent))
    answer, learning, reason = _verdict(share, classes, rules)
    chosen = {
        "frozen": torch.zeros_like(kept),
        "each": answered & ((odds > rules.margin) | (differ == 0)),
        "adapted": answered,
    }[answer]
    given = chances(calibration, each, recent, chosen.to(each.dtype))
    given[:, 1] = torch.where(answered, given[:, 1], state.right.mean[1])  # no answer, no evidence
    state.right.add(given, torch.ones_like(counts), rules.estimate_half_life)
    found = estimate(calibration, state.right)
    return Verdict(chosen, answer, learning, reason, share, agreement, classes, found)


def _verdict(share: float, classes: float, rules: Rules) -> tuple[Answer, Learning, str]:
    """Apply the thresholds: answer, learning, reason."""
    of_them = f"of the images that only one model answers rightly, the adapted one has {share:.0%}"
    if classes < rules.fewest_classes:
        reason = f"the adapted model answers with only {classes:.0%} of the frozen one's classes"
        return "frozen", "roll back", f"{reason}: it has collapsed."
    if share < rules.worse_below:
        return "frozen", "roll back", f"By estimate, {of_them}: it does harm."
    if share < rules.frozen_below:
        return "frozen", "go on", f"By estimate, {of_them}: too few to rely on it."
    if share < rules.adapted_above:
        return "each", "go on", f"By estimate, {of_them}: each image gets the likelier answer."
    return "adapted", "go on", f"By estimate, {of_them}."
