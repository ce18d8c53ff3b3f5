"""A card for each variant of a report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from acclimate.evaluate.store import Measured
from acclimate.evaluate.variant import Variant
from acclimate.methods import METHODS, RECIPES, AdapterSettings
from acclimate.methods.changes import settings_of_record, settings_record
from acclimate.methods.words import learns, needs
from acclimate.report.comparison import Comparison
from acclimate.report.exports import points
from acclimate.report.reproduce import flat


@dataclass(frozen=True)
class Card:
    """A variant in a few lines."""

    name: str
    summary: str
    citation: str
    oracle: bool
    needs: str
    learns: str
    training: str
    """The stages that train its bundle."""
    settings: Mapping[str, object]
    """Settings that differ from those of a frozen classifier, by dotted name."""
    gains: tuple[str, ...]
    """Differences to the frozen classifier, on the mean and on clean images, for each bundle."""
    forward_equivalents: float | None
    images_per_second: float


def cards_of(
    measured: Sequence[Measured],
    settings: Mapping[str, Mapping[str, object]],
    table: Comparison,
) -> list[Card]:
    """A card for each variant, in the order in which they come.

    Args:
        measured: All cells of a report.
        settings: The settings of each variant by its name, as the manifest has them.
        table: The table of the report's first protocol.
    """
    plain = dict(flat(settings_record(AdapterSettings())))
    cards = []
    for variant in dict.fromkeys(each.cell.variant for each in measured):
        record = settings[str(variant)]
        row = replace(METHODS[variant.method], settings=settings_of_record(record))
        cells = [each.cell for each in measured if each.cell.variant == variant]
        own = {key: value for key, value in flat(record) if value != plain.get(key)}
        changes = ", ".join(f"{name} = {value}" for name, value in variant.changes)
        costs = [cell.forward_equivalents for cell in cells]
        costs = [cost for cost in costs if not math.isnan(cost)]
        cards.append(
            Card(
                str(variant),
                f"{row.summary}: with {changes}" if changes else row.summary,
                row.citation,
                row.oracle,
                needs(row),
                learns(row),
                ", ".join(RECIPES[row.recipe].stages),
                own,
                _gains(variant, table),
                median(costs) if costs else None,
                median(cell.images_per_second for cell in cells),
            )
        )
    return cards


def _gains(variant: Variant, table: Comparison) -> tuple[str, ...]:
    """What a variant gains and loses against the frozen classifier, a text for each bundle."""
    rows = [row for row in table.rows if row.variant == variant and (row.gain or row.clean)]
    return tuple(
        f"{points(row.gain)} points on the mean, {points(row.clean)} on clean images"
        + (f" ({row.key[0]})" if len(rows) > 1 else "")
        for row in rows
    )
