"""What each method of a report is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from acclimate.evaluate.measure import LR0
from acclimate.methods import METHODS, RECIPES, AdapterSettings
from acclimate.methods.words import learns, needs
from acclimate.report.measured import Measured


@dataclass(frozen=True)
class Card:
    """A method in a few lines."""

    name: str
    summary: str
    citation: str
    oracle: bool
    needs: str
    learns: str
    training: str
    """The stages that make its bundle."""
    settings: Mapping[str, object]
    """At deployment, where they are not those of a frozen classifier."""
    forward_equivalents: float | None
    images_per_second: float


def cards_of(
    measured: Sequence[Measured], settings: Mapping[str, Mapping[str, object]]
) -> list[Card]:
    """A card for each method, in the order in which they come.

    Args:
        measured: All that a report is about.
        settings: Of each method, as `acclimate.methods.AdapterSettings` names them.
    """
    plain = asdict(AdapterSettings())
    cards = []
    for name in dict.fromkeys(each.cell.method for each in measured):
        row = METHODS[name.removesuffix(LR0)]
        cells = [each.cell for each in measured if each.cell.method == name]
        own = {key: value for key, value in settings[name].items() if value != plain.get(key)}
        costs = [cell.forward_equivalents for cell in cells]
        costs = [cost for cost in costs if not math.isnan(cost)]
        cards.append(
            Card(
                name,
                f"{row.summary}{': at learning rate 0' if name.endswith(LR0) else ''}",
                row.citation,
                row.oracle,
                needs(row),
                learns(row),
                ", ".join(RECIPES[row.recipe].stages),
                own,
                median(costs) if costs else None,
                median(cell.images_per_second for cell in cells),
            )
        )
    return cards
