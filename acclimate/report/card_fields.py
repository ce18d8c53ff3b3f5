"""In which fields two protocol cards differ, in plain words."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from acclimate.evaluate.card import UNKNOWN
from acclimate.report.reproduce import flat

WORDS = {
    "protocol": "protocol",
    "order": "order of arrival",
    "method": "method",
    "weights": "weights of the bundle (SHA-256)",
    "network": "network",
    "bundle": "bundle (checksum)",
    "preprocessing": "preprocessing",
    "preprocessing.mean": "normalisation: mean",
    "preprocessing.std": "normalisation: standard deviation",
    "dataset": "data set",
    "images": "images (SHA-256)",
    "n_images": "number of images",
    "batch": "batch size",
    "window": "window of single images",
    "reset": "reset",
    "answer": "answers",
    "statistics": "statistics of batch norm",
    "metric": "metric",
    "frost": "frost pictures",
    "seeds": "seeds",
}
"""What fields are called; settings go by their dotted names."""
_APART = ("shifts", "commits")
"""Fields that say what was measured, and when, but not how."""
_HASHES = ("weights", "images", "bundle")
_ABSENT = "–"


class Difference(NamedTuple):
    """A field in which two cards differ."""

    name: str
    """Dotted name of the field."""
    words: str
    """What it is called."""
    first: str
    second: str


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """The fields in which two cards differ, in the cards' order.

    ```python
    for each in differences(manifest["cards"][one], manifest["cards"][other]):
        print(each.words, each.first, each.second)
    ```

    What follows from another difference is left out: the protocol's order, and the checksum of a
    bundle whose weights or preprocessing differ. Which shifts were measured, and by which commit,
    is no difference.

    Args:
        first: A card as its record.
        second: Another.
    """
    one, other = _flat(first), _flat(second)
    names = [name for name in one | other if one.get(name) != other.get(name)]
    differing = set(names)
    if "protocol" in differing:
        differing -= {"order"}
    parts = {name.partition(".")[0] for name in differing}
    if parts & {"weights", "network", "preprocessing"} or UNKNOWN in (
        one["bundle"],
        other["bundle"],
    ):
        differing -= {"bundle"}
    if not (one.get("frost") and other.get("frost")):  # one had no image under frost
        differing -= {"frost"}
    return [
        Difference(name, _words(name), _text(name, one), _text(name, other))
        for name in names
        if name in differing
    ]


def shown_fields(card: Mapping[str, Any]) -> dict[str, str]:
    """All fields of a card by what they are called, hashes in full.

    ```python
    shown_fields(manifest["cards"][name])["batch size"]
    ```
    """
    found = {**_flat(card), **{name: card.get(name, ()) for name in _APART}}
    return {_words(name): _text(name, found, whole=True) for name in found if found[name] != ""}


def _flat(card: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in flat(card) if name not in _APART}
    for name, value in list(found.items()):  # several parts in one place, such as an aftermath
        if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
            del found[name]
            for place, part in enumerate(value):
                found |= flat(part, f"{name}.{place}.")
        elif name.startswith("settings.") and value == []:
            del found[name]
    return found


def _words(name: str) -> str:
    if name in WORDS:
        return WORDS[name]
    group, _, rest = name.partition(".")
    if not rest:
        return name
    return f"preprocessing: {rest}" if group == "preprocessing" else f"setting {rest}"


def _text(name: str, card: Mapping[str, Any], *, whole: bool = False) -> str:
    if name not in card:
        return UNKNOWN if name.startswith("preprocessing") else _ABSENT
    value = card[name]
    if name in _HASHES and value != UNKNOWN and not whole:
        return f"{value[:12]}…"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return _ABSENT if value is None or value == "" else str(value)
