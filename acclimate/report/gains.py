"""Differences between variants on the same images, with paired intervals."""

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from acclimate.evaluate.cell import Cell
from acclimate.evaluate.store import Measured
from acclimate.evaluate.variant import Variant
from acclimate.report.intervals import paired_interval
from acclimate.report.measured import reported

_CTA, _OURS = Variant("cta"), Variant("acclimate")
STEPPING = (_CTA, _OURS)
"""Methods whose steps are isolated: they are also measured at learning rate 0."""
_PARTS = (
    ("batch statistics alone", Variant("ptbn"), Variant("source")),
    ("alignment and batch statistics", Variant("aligned-bn"), Variant("source")),
    ("cta: gradient steps", _CTA, _CTA.without_steps),
    ("acclimate: class statistics and mirrored image", _OURS.without_steps, Variant("aligned-bn")),
    ("acclimate: gradient steps", _OURS, _OURS.without_steps),
)


@dataclass(frozen=True)
class Gain:
    """A difference in accuracy, a mean over streams."""

    difference: float
    """A fraction."""
    low: float
    """Lower limit of the 95 % interval; nan where answers are not known image by image."""
    high: float
    """Upper limit."""


def gain_between(mine: Sequence[Measured], base: Sequence[Measured]) -> Gain | None:
    """The mean difference of two variants over the same images, with a paired interval.

    Returns:
        None if one of the streams of ``mine`` has no partner in ``base``.

    Raises:
        ValueError: the two answered for different images of a stream.
    """
    partners = {stream_of(each): each for each in base}
    if not mine or any(stream_of(each) not in partners for each in mine):
        return None
    both = [(each.cell, partners[stream_of(each)].cell) for each in mine]
    if any(cell.answers is None for pair in both for cell in pair):
        difference = float(np.mean([one.accuracy - other.accuracy for one, other in both]))
        return Gain(difference, math.nan, math.nan)
    pairs = [paired(*pair) for pair in both]
    first, second, images = (np.concatenate(arrays) for arrays in zip(*pairs))
    return Gain(*paired_interval(first, second, groups=images))


def parts_of(
    measured: Sequence[Measured], held_out: Collection[str] = ()
) -> list[tuple[str, Gain]]:
    """Gains of statistics, alignment and gradient steps, with paired intervals.

    ```python
    for label, gain in parts_of(measured):
        print(label, gain.difference)
    ```

    A part is left out where one of its two variants was not measured, and all are where no method
    of `STEPPING` was measured at learning rate 0. The parts of several bundles carry the bundles'
    names.

    Args:
        measured: Cells of one protocol, with answers.
        held_out: Corruptions kept apart for choosing settings; they do not count.
    """
    rows: dict[tuple[str, Variant], list[Measured]] = defaultdict(list)
    for each in reported(measured, held_out):
        if each.cell.answers is not None:
            rows[each.row].append(each)
    still = {variant.without_steps for variant in STEPPING}
    bundles = dict.fromkeys(bundle for bundle, variant in rows if variant in still)
    found = []
    for bundle in bundles:
        for label, variant, base in _PARTS:
            known = {stream_of(each) for each in rows.get((bundle, base), ())}
            mine = [m for m in rows.get((bundle, variant), ()) if stream_of(m) in known]
            gain = gain_between(mine, rows.get((bundle, base), ()))
            if gain is not None:
                found.append((f"{label} · {bundle}" if len(bundles) > 1 else label, gain))
    return found


def paired(
    first: Cell, second: Cell
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Whether each of two variants was right on an image, and the images' numbers, sorted.

    Raises:
        ValueError: they answered for different images.
    """
    one, other = first.answers, second.answers
    assert one is not None and other is not None
    # An image may come several times, as in a recurring stream: each time pairs with its own.
    rows, others = (answers.numbers.argsort(kind="stable") for answers in (one, other))
    numbers = one.numbers[rows]
    if not np.array_equal(numbers, other.numbers[others]):
        raise ValueError(
            f"{first.variant} and {second.variant} answered for other images under "
            f"{first.condition}: {len(rows)} and {len(others)}."
        )
    return one.right[rows], other.right[others], numbers


def stream_of(each: Measured) -> tuple[Any, ...]:
    """The key that two cells share if they answered for the same pixels."""
    cell = each.cell
    shift = (cell.corruption, cell.severity, cell.domain)
    return (cell.dataset, each.task.images, *shift, cell.order, cell.seed)
