"""What each part of a gain is: the method against itself with the part switched off."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from acclimate.evaluate.store import Measured
from acclimate.evaluate.switches import PARTS, switches_of
from acclimate.evaluate.variant import Variant
from acclimate.report.gains import Gain, gain_between, stream_of
from acclimate.report.measured import RowKey, reported, row_names


@dataclass(frozen=True)
class PartsRow:
    """A method, its gain and what its parts add."""

    key: RowKey
    name: str
    whole: Gain | None
    """The difference to the frozen classifier of the same bundle."""
    parts: Mapping[str, Gain]
    """What each part adds, by its name: the difference to the same without it."""
    measured: Mapping[str, tuple[Variant, Variant]]
    """The two variants that each difference is of."""


def each_part(measured: Sequence[Measured], held_out: Collection[str] = ()) -> list[PartsRow]:
    """The parts of each method's gain, as far as both variants of a part were measured.

    ```python
    for row in each_part(cells):
        for part, gain in row.parts.items():
            print(row.name, part, gain.difference)
    ```

    Parts do not add up to the whole: each is switched off alone, and some do the same work.

    Args:
        measured: Cells of one protocol.
        held_out: Corruptions kept apart for choosing settings; they do not count.
    """
    rows: dict[RowKey, list[Measured]] = defaultdict(list)
    for each in reported(measured, held_out):
        rows[each.row].append(each)
    names = row_names(measured)
    switches = {variant: switches_of(variant) for _, variant in rows}
    helpers = {switch.off for some in switches.values() for switch in some}
    found = []
    for (bundle, variant), mine in rows.items():
        if variant in helpers and variant.changes:  # there for another method's sake
            continue
        parts = {}
        for switch in switches[variant]:
            gain = _between(rows.get((bundle, switch.on), ()), rows.get((bundle, switch.off), ()))
            if gain is not None:
                parts[switch.part] = gain
        pairs = {s.part: (s.on, s.off) for s in switches[variant] if s.part in parts}
        if parts:
            whole = _between(mine, rows.get((bundle, variant.frozen), ()))
            found.append(PartsRow((bundle, variant), names[bundle, variant], whole, parts, pairs))
    return found


def parts_shown(rows: Sequence[PartsRow]) -> list[str]:
    """The parts that some of these methods have, in the order in which they are told."""
    return [part for part in PARTS if any(part in row.parts for row in rows)]


def _between(mine: Sequence[Measured], base: Sequence[Measured]) -> Gain | None:
    """The gain over the streams that both have."""
    known = {stream_of(each) for each in base}
    return gain_between([each for each in mine if stream_of(each) in known], base)
