"""Advice in words and figures: for the console, the page and the settings file."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from acclimate.advise.advice import Advice
from acclimate.advise.candidates import Candidate
from acclimate.advise.choose import gain
from acclimate.advise.labelled import Labelled
from acclimate.advise.plan import duration
from acclimate.advise.settings_file import SettingsFile
from acclimate.advise.streams import CONDITIONS
from acclimate.advise.trials import Trial
from acclimate.evaluate.variant import Variant
from acclimate.methods.kinds import KINDS
from acclimate.runtime.budget import show_bytes
from acclimate.source.held_out import CLEAN, SHIFTS

COLUMNS = ("method", "batch", "gain, points", "passes", "ms", "memory", "on your images")
"""The columns of `rows`; with labels one more."""
_RESETS = {
    "batch": "It begins anew with each batch.",
    "never": "It keeps what it learns.",
    "signal": "It begins anew where its loss is too low.",
}


@dataclass(frozen=True)
class Verdict:
    """What is advised, in sentences."""

    headline: str
    """What to do."""
    reasons: tuple[str, ...]
    """Why, and what to know beside it."""


def verdict_of(advice: Advice) -> Verdict:
    """The advice in sentences."""
    trial, reasons = advice.chosen, []
    if trial is None:
        headline = f"Do not adapt, because {_why_not(advice)}."
        best = advice.choice.best
        if best is not None and advice.choice.gains[best].value > 0:
            reasons.append("A guard in the mode shadow would try it in operation, without risk.")
    else:
        candidate = trial.candidate
        found = advice.choice.gains[candidate]
        how = f"{candidate.variant}, in batches of {candidate.batch}"
        headline = f"Adapt with {how}: it gains {found} points."
        reasons.append(_cost(trial, advice))
        reasons.append(_by_shift(trial, advice))
        if candidate.variant.settings.steps:
            reasons.append(_reset(candidate))
        if advice.guard == "off":
            reasons.append(
                "The bundle has no calibration of a guard; acclimate measure adds one, and then "
                "--guard bounded keeps the answers frozen where adapting harms."
            )
    reasons += _setting(advice)
    return Verdict(headline, tuple(reasons))


def rows(advice: Advice, labelled: Labelled | None = None) -> list[list[str]]:
    """A row of words for each candidate, the best first, and one for the frozen classifier."""
    gains = advice.choice.gains
    found = []
    for trial in sorted(advice.trials, key=lambda each: -gains[each.candidate].value):
        candidate = trial.candidate
        row = [
            str(candidate.variant),
            str(candidate.batch),
            str(gains[candidate]),
            f"{trial.cost.forward_equivalents:.1f}",
            f"{trial.milliseconds:.2f}",
            show_bytes(trial.cost.held_bytes + trial.cost.activation_bytes),
            "" if trial.target is None else str(trial.target.estimate.adapted),
        ]
        found.append([*row, *([str(labelled.gains[candidate])] if labelled else [])])
    on_target = "" if advice.target is None else f"{100 * advice.target.estimated:.0f} %"
    plain = ["source (frozen)", "any", "0", "1.0", "", "", on_target]
    return [*found, [*plain, *([f"{100 * labelled.frozen:.1f} % right"] if labelled else [])]]


def settings_of(advice: Advice, weights: str, batch: int) -> SettingsFile:
    """The settings file's contents.

    Args:
        advice: The advice.
        weights: Checksum of the bundle's weights.
        batch: Of the frozen classifier, for which it does not matter.
    """
    chosen = advice.choice.chosen or Candidate(Variant("source"), batch)
    return SettingsFile(chosen.variant, chosen.batch, advice.guard, weights)


def remarks_of(advice: Advice) -> dict[str, Any]:
    """Why, as JSON values for people."""
    verdict = verdict_of(advice)
    return {
        "verdict": verdict.headline,
        "reasons": list(verdict.reasons),
        "gains_in_points": {
            str(name): [round(100 * v, 2) for v in (found.value, found.low, found.high)]
            for name, found in advice.choice.gains.items()
        },
        "order": advice.order,
        "source_images": advice.frozen.shape[1],
        "target_images": 0 if advice.target is None else len(advice.target.images),
    }


def _why_not(advice: Advice) -> str:
    """Why no method was chosen."""
    best = advice.choice.best
    assert best is not None
    found = advice.choice.gains[best]
    if found.low > 0 and best in advice.refused:
        return f"of {best}, which gains most on source images, {advice.refused[best]}"
    if found.high < 0:
        return f"every method that was tried loses; {best} least, with {found} points"
    return f"no gain is sure; the best method, {best}, has {found} points"


def _cost(trial: Trial, advice: Advice) -> str:
    cost = trial.cost
    memory = show_bytes(cost.held_bytes + cost.activation_bytes)
    return (
        f"An image costs {cost.forward_equivalents:.1f} forward passes in place of 1, "
        f"{trial.milliseconds:.2f} ms on this machine, and {memory} beside the model."
    )


def _by_shift(trial: Trial, advice: Advice) -> str:
    """Gains under each corruption, and what it costs on clean images."""
    names = [name for name, _ in CONDITIONS]
    parts = []
    for wanted in (CLEAN, *SHIFTS):
        here = advice.weights.new_tensor([float(name == wanted) for name in names])
        found = gain(trial.scores, advice.frozen, here / here.sum())
        label = "clean" if wanted == CLEAN else wanted.replace("_", " ")
        parts.append(f"{label} {100 * found.value:+.1f}")
    return f"By corruption of source images, in points: {', '.join(parts)}."


def _reset(candidate: Candidate) -> str:
    reset = candidate.variant.settings.reset
    kind = next(name for name, kind in KINDS["reset"].items() if kind is type(reset))
    return _RESETS.get(kind, f"It begins anew by the reset {kind}.")


def _setting(advice: Advice) -> Iterator[str]:
    """What was measured on."""
    count = advice.frozen.shape[1]
    listed = advice.order == "arrival" and advice.target is None
    come = "by class" if advice.by_class else "as they are listed" if listed else "shuffled"
    yield (
        f"Measured on {count:,} source images, clean and under {len(CONDITIONS) - 1} corruptions "
        f"that are in no reported mean, which came {come}, in {duration(advice.seconds)}."
    )
    if advice.target is not None:
        yield (
            f"On {len(advice.target.images):,} of your images the frozen classifier is right for "
            f"about {100 * advice.target.estimated:.0f} %, by estimate; shifts under which it is "
            "about as good on source images count most."
        )
    yield from (f"Left out: {reason}" for reason in advice.left_out)
