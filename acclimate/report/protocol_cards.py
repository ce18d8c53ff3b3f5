"""The protocol cards of a report: what all results share once, then what each has of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from acclimate.report.against import Results
from acclimate.report.card_fields import shown_fields


@dataclass(frozen=True)
class ShownCard:
    """A card, or what all cards share."""

    title: str
    """The method, its bundle and the protocol; empty for what all share."""
    fields: Mapping[str, str]
    """Values by what the fields are called."""


def shown_cards(results: Sequence[Results]) -> list[ShownCard]:
    """What all cards share, and for each card its other fields.

    ```python
    shown_cards(results_of(*read_grid(Path("runs/main"))))
    ```
    """
    cards = [shown_fields(each.card) for each in results]
    if not cards:
        return []
    first = cards[0]
    common = {
        name: value for name, value in first.items() if all(c.get(name) == value for c in cards)
    }
    own = [
        ShownCard(_title(each), {n: value for n, value in card.items() if n not in common})
        for each, card in zip(results, cards, strict=True)
    ]
    return [ShownCard("", common), *(card for card in own if card.fields)]


def _title(results: Results) -> str:
    cell = results.measured[0].cell
    batch = f"window of {cell.window}" if cell.window else f"batches of {cell.batch}"
    return f"{cell.variant} · {cell.bundle} · {results.card['protocol']}, {batch}"
