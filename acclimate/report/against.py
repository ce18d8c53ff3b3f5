"""Two folders of results against each other: their protocol cards, then their accuracies."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from acclimate.evaluate.card import card_name, protocol_cards
from acclimate.evaluate.cell import CLEAN
from acclimate.evaluate.store import Measured
from acclimate.report.card_fields import Difference, differences
from acclimate.report.gains import Gain, paired
from acclimate.report.intervals import paired_interval
from acclimate.report.measured import held_out_of

MEAN = "mean"
"""Label of the mean over corruptions or domains."""
Place = tuple[str, float]
"""A condition and its severity."""


class Results(NamedTuple):
    """What one card stands for, and the cells that were measured so."""

    card: Mapping[str, Any]
    measured: tuple[Measured, ...]


class Beside(NamedTuple):
    """Two accuracies under one shift, or their means."""

    label: str
    first: float
    """A fraction."""
    second: float
    gain: Gain
    """The first minus the second; the interval is nan where the images are not the same."""


@dataclass(frozen=True)
class Pair:
    """Results of both folders that belong together."""

    name: str
    """The method, or both methods."""
    fields: tuple[Difference, ...]
    """The fields in which their cards differ."""
    beside: tuple[Beside, ...]
    """Accuracies under each shift that both have; the mean, if there is one, first."""
    missing: tuple[str, ...]
    """Shifts that only one of them has."""

    @property
    def same(self) -> bool:
        """Whether nothing differs, the accuracies included."""
        equal = all(each.first == each.second for each in self.beside)
        return equal and not self.fields and not self.missing


@dataclass(frozen=True)
class Against:
    """Two folders of results, compared."""

    pairs: tuple[Pair, ...]
    only_first: tuple[str, ...]
    """Names of methods that only the first has."""
    only_second: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        alone = self.only_first or self.only_second
        return not alone and all(pair.same for pair in self.pairs)


def results_of(measured: Sequence[Measured], manifest: Mapping[str, Any]) -> list[Results]:
    """The cells of a folder by their protocol cards.

    ```python
    results = results_of(*read_grid(Path("runs/main")))
    ```

    Cards that an older acclimate did not write are made of what is known.
    """
    groups: dict[str, list[Measured]] = {}
    for each in measured:
        groups.setdefault(each.cell.card or card_name(each.task), []).append(each)
    known = manifest.get("cards", {})
    found = []
    for name, cells in groups.items():
        made = protocol_cards([each.task for each in cells], manifest["bundles"], {})
        card = dict(known.get(name) or next(iter(made.values())))
        card["seeds"] = sorted(
            {each.cell.seed for each in cells}
        )  # of these, where some are chosen
        found.append(Results(card, tuple(cells)))
    return found


def against(first: Sequence[Results], second: Sequence[Results]) -> Against:
    """Pair the results of two folders, and say how each pair differs.

    Results of the same method are paired, those with the fewest differences first. Where each side
    has one method, the two may be different ones.

    Args:
        first: Of `results_of`.
        second: Likewise.
    """
    methods = [{each.card["method"] for each in side} for side in (first, second)]
    single = all(len(names) == 1 for names in methods)
    options = sorted(
        (len(differences(one.card, other.card)), _label(one) != _label(other), i, j)
        for i, one in enumerate(first)
        for j, other in enumerate(second)
        if single or one.card["method"] == other.card["method"]
    )
    partner: dict[int, int] = {}
    for *_, i, j in options:
        if i not in partner and j not in partner.values():
            partner[i] = j
    pairs = tuple(_pair(first[i], second[j]) for i, j in sorted(partner.items()))
    alone = [each.card["method"] for i, each in enumerate(first) if i not in partner]
    others = [each.card["method"] for j, each in enumerate(second) if j not in partner.values()]
    return Against(pairs, tuple(dict.fromkeys(alone)), tuple(dict.fromkeys(others)))


def _label(results: Results) -> str:
    return results.measured[0].cell.bundle


def _pair(first: Results, second: Results) -> Pair:
    names = dict.fromkeys((first.card["method"], second.card["method"]))
    one, other = _by_place(first.measured), _by_place(second.measured)
    both = [place for place in one if place in other]
    held_out = held_out_of([*first.measured, *second.measured])
    counting = [place for place in both if place[0] not in (CLEAN, *held_out)]
    beside = [_beside(_shown(place), [place], one, other) for place in both]
    if len(counting) > 1:
        beside.insert(0, _beside(MEAN, counting, one, other))
    missing = [_shown(place) for place in one | other if place not in both]
    fields = tuple(differences(first.card, second.card))
    return Pair(" | ".join(names), fields, tuple(beside), tuple(missing))


def _by_place(measured: Sequence[Measured]) -> dict[Place, dict[int, Measured]]:
    """Cells by condition and severity, then by seed."""
    found: dict[Place, dict[int, Measured]] = {}
    for each in measured:
        place = (each.cell.condition, each.cell.severity)
        found.setdefault(place, {})[each.cell.seed] = each
    return found


def _beside(
    label: str,
    places: Collection[Place],
    one: Mapping[Place, Mapping[int, Measured]],
    other: Mapping[Place, Mapping[int, Measured]],
) -> Beside:
    """Mean accuracies over places, of the seeds that both have if there are any."""
    pairs, firsts, seconds = [], [], []
    for place in places:
        shared = [seed for seed in one[place] if seed in other[place]]
        pairs += [(one[place][seed], other[place][seed]) for seed in shared]
        for side, means in ((one[place], firsts), (other[place], seconds)):
            chosen = shared or list(side)
            means.append(np.mean([side[seed].cell.accuracy for seed in chosen]))
        if not shared:
            pairs.append(None)
    first, second = float(np.mean(firsts)), float(np.mean(seconds))
    interval = _interval(pairs)
    return Beside(label, first, second, Gain(first - second, *interval))


def _interval(pairs: Sequence[tuple[Measured, Measured] | None]) -> tuple[float, float]:
    """The limits of a paired interval; nan unless all answers are to the same images."""
    found = []
    for pair in pairs:
        if pair is None or not _same_pixels(*pair):
            return math.nan, math.nan
        try:
            found.append(paired(pair[0].cell, pair[1].cell))
        except ValueError:  # some images came more often, or not
            return math.nan, math.nan
    first, second, images = (np.concatenate(arrays) for arrays in zip(*found))
    return paired_interval(first, second, groups=images)[1:]


def _same_pixels(one: Measured, other: Measured) -> bool:
    known = one.cell.answers is not None and other.cell.answers is not None
    return known and (one.task.images, one.task.frost) == (other.task.images, other.task.frost)


def _shown(place: Place) -> str:
    condition, severity = place
    return condition if severity == 0 else f"{condition} {severity:g}"
