"""The decision about a batch: which model answers, what becomes of the learning, and why."""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from acclimate.guard.calibration import HALF_LIFE, Calibration
from acclimate.guard.class_shares import answers_of, begun, limited, most_right
from acclimate.guard.estimate import Estimate, Views, chances, estimate, views
from acclimate.guard.labels import NONE, Answers, Labels, bias_of_share
from acclimate.guard.rules import Rules
from acclimate.guard.signals import Recent, features, fewer_classes, signals

Answer = Literal["frozen", "each", "adapted"]
Learning = Literal["go on", "hold", "roll back"]

_START = 16.0  # images that the recent stream begins with, as if they were clean source images
_BEFORE = 0.4, 0.2  # share of the adapted answer, and of images that differ, before any image


@dataclass(frozen=True)
class Spent:
    """What a stream has used of the budget."""

    steps: int = 0
    """Steps that were taken."""
    distance: float = 0.0
    """Distance of the weights that move from the source's, as a share of the source's length."""


@dataclass(frozen=True)
class GuardState:
    """The memory of the guard: averages, and what labels need. Changed in place; never grows."""

    recent: Recent
    """Average of the signals."""
    answers: Recent
    """Average of `acclimate.guard.class_shares.answers_of`."""
    looks: Recent
    """Average of how images look."""
    share: Recent
    """Average of two values: 1 where answers differ, and there the chance of the adapted one."""
    right: Recent
    """Average of `acclimate.guard.estimate.chances`, and of 1 where there is an adapted answer."""
    labels: Labels
    """Recent answers, and what labels have shown."""

    @classmethod
    def new(cls, calibration: Calibration) -> "GuardState":
        """The state before any image."""
        share, differ = _BEFORE
        usual = calibration.usual.clone()
        none = torch.zeros(1, device=usual.device)
        looks = calibration.places.mean.clone()
        alike = calibration.places.alike(looks)
        right = chances(views(calibration, usual[None], usual, alike, none == 0), none)
        return cls(
            Recent.of(usual, _START),
            Recent.of(begun(usual[3:], right[0, :2]), _START),
            Recent.of(looks, _START),
            Recent.of(usual.new_tensor([share * differ, differ]), _START),
            Recent.of(torch.cat([right[0], usual.new_ones(1)]), 1.0),
            Labels.new(usual.device),
        )

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        averages = {
            f"{name}.{part}": getattr(getattr(self, name), part)
            for name in ("recent", "answers", "looks", "share", "right")
            for part in ("total", "weight", "squares")
        }
        return averages | {f"labels.{n}": each for n, each in self.labels.tensors().items()}


@dataclass(frozen=True)
class Verdict:
    """The guard's decision about a batch."""

    use_adapted: Bool[Tensor, " batch"]
    """Which images get the adapted answer; the others get the frozen one."""
    answer: Answer
    """The model that answers for the batch; with ``each``, the more probable one for each image."""
    learning: Learning
    """``"roll back"`` takes the adapter back to its last good state; ``"hold"``: nothing more is
    learned."""
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
    answers: Answers = field(repr=False, compare=False)
    """Answers and chances of the batch, for labels that come later."""

    def __repr__(self) -> str:
        return f"Verdict({self.answer!r}, {self.learning!r}: {self.reason})"


def judge(
    frozen: Float[Tensor, "batch classes"],
    adapted: Float[Tensor, "batch classes"],
    looks: Float[Tensor, "batch 5"],
    kept: Bool[Tensor, " batch"],
    calibration: Calibration,
    state: GuardState,
    rules: Rules,
    answered: Bool[Tensor, " batch"] | None = None,
    spent: Spent | None = None,
) -> Verdict:
    """Decide about a batch, and remember it.

    ```python
    shown = looks(images), ~blank(images)
    verdict = judge(frozen, adapted, *shown, calibration, state, Rules())
    logits = torch.where(verdict.use_adapted[:, None], adapted, frozen)
    ```

    Args:
        frozen: Logits of the frozen classifier.
        adapted: Logits of the adapted model; anything finite where it did not see the image.
        looks: Of `acclimate.guard.looks.looks`.
        kept: Images that the adapted model saw. The others are no evidence.
        calibration: Of the model that adapts.
        state: What was seen before; changed in place.
        rules: Thresholds.
        answered: Images that have an adapted answer, such as repetitions of one that was seen; the
            others get the frozen one. None stands for those that it saw.
        spent: What the stream has used of the budget; None for nothing.
    """
    answered = kept if answered is None else answered
    each, counts = signals(frozen, adapted), kept.to(calibration.usual.dtype)
    state.recent.add(each, counts, HALF_LIFE)
    state.looks.add(looks.to(counts), counts, HALF_LIFE)
    recent, alike = state.recent.mean, calibration.places.alike(state.looks.mean)
    odds = calibration.better.log_odds(features(each, recent), alike)
    seen = views(calibration, each, recent, alike, answered)
    if rules.class_shares == "as-source":
        odds, seen = _knowing_shares(odds, seen, each, counts, calibration, state)
    differ = 1 - each[:, 2]
    plain = _share(odds, differ, counts, state)
    share = min(max(plain + bias_of_share(state.labels), 0.0), 1.0)
    agreement, classes = float(recent[2]), float(fewer_classes(recent))
    first = _verdict(share, classes, rules)
    answer, learning, reason = _within(first, 1 - agreement, spent or Spent(), rules)
    chosen = {
        "frozen": torch.zeros_like(kept),
        "each": answered & ((odds + (_odds(share) - _odds(plain)) > rules.margin) | (differ == 0)),
        "adapted": answered,
    }[answer]
    given = chances(seen, chosen.to(each.dtype))
    given[:, 1] = torch.where(answered, given[:, 1], state.right.mean[1])  # no answer, no evidence
    heard = torch.cat([given, answered[:, None].to(given)], 1)
    state.right.add(heard, torch.ones_like(counts), rules.estimate_half_life)
    found = estimate(calibration, state.right, state.labels.right)
    classes_of = frozen.argmax(1), torch.where(answered, adapted.argmax(1), NONE)
    beside = torch.cat([given[:, :3], odds.sigmoid()[:, None]], 1)
    answers = Answers(torch.stack(classes_of, 1).int(), beside, chosen)
    return Verdict(chosen, answer, learning, reason, share, agreement, classes, found, answers)


def _knowing_shares(
    odds: Float[Tensor, " batch"],
    seen: Views,
    each: Float[Tensor, "batch signals"],
    counts: Float[Tensor, " batch"],
    calibration: Calibration,
    state: GuardState,
) -> tuple[Float[Tensor, " batch"], Views]:
    """Odds and chances where each class comes as often as among source images."""
    named = answers_of(each, torch.stack([seen.frozen, seen.adapted], 1))
    state.answers.add(named, counts, HALF_LIFE)
    shares = calibration.usual[3:].view(2, -1).amax(0)  # either model may miss some of a class
    most, supposed = most_right(named, state.answers, shares)
    seen = seen.lowered((most / supposed).clamp(max=1))
    return limited(odds, most, seen.frozen, seen.adapted), seen


def _share(
    odds: Float[Tensor, " batch"],
    differ: Float[Tensor, " batch"],
    counts: Float[Tensor, " batch"],
    state: GuardState,
) -> float:
    """`Verdict.share`, without what labels say."""
    state.share.add(torch.stack([odds.sigmoid() * differ, differ], 1), counts, HALF_LIFE)
    better, differed = state.share.mean.double().tolist()
    return (better + 1e-12 * _BEFORE[0]) / (differed + 1e-12)


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


def _within(
    found: tuple[Answer, Learning, str], changed: float, spent: Spent, rules: Rules
) -> tuple[Answer, Learning, str]:
    """Hold a verdict to the budget."""
    answer, learning, reason = found
    if learning == "roll back":
        return found
    if rules.most_distance is not None and spent.distance > rules.most_distance:
        reason = f"The weights are {spent.distance:.1%} away from the source's"
        return "frozen", "roll back", f"{reason}: the budget is {rules.most_distance:.1%}."
    if rules.most_changed is not None and changed > rules.most_changed and answer != "frozen":
        reason = f"Adapting would change {changed:.0%} of recent answers"
        answer, reason = "frozen", f"{reason}: the budget is {rules.most_changed:.0%}."
    if rules.most_steps is not None and spent.steps >= rules.most_steps:
        learning = "hold"
        reason = f"{reason[:-1]}; after {spent.steps} steps nothing more is learned."
    return answer, learning, reason


def _odds(share: float) -> float:
    """Log-odds of a share."""
    kept = min(max(share, 1e-6), 1 - 1e-6)
    return math.log(kept / (1 - kept))
