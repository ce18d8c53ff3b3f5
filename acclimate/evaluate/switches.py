"""The parts of a method, each switched off in turn: what each part of a gain is."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from acclimate.errors import InputError
from acclimate.evaluate.variant import Scalar, Variant
from acclimate.methods import METHODS, AdapterSettings, check_settings, method
from acclimate.methods.kinds import KINDS

PARTS = (
    "statistics",
    "alignment",
    "correction",
    "ensembling of weights",
    "ensembling of views",
    "selection",
    "memory",
    "steps",
)
"""What a gain may come from, in the order of tables."""
_PLAIN = AdapterSettings()


@dataclass(frozen=True)
class Switch:
    """A part of a method: what it adds is the difference of two variants."""

    part: str
    """One of `PARTS`."""
    on: Variant
    off: Variant


def switches_of(variant: Variant) -> list[Switch]:
    """The parts that a method has, each switched off alone, in the order of `PARTS`.

    ```python
    for switch in switches_of(Variant("cta")):
        print(switch.part, switch.on, switch.off)
    ```

    What follows from the settings' parts works for any row. A part that cannot be switched off
    alone, because another needs it, is left out. Alignment is the aligned twin against the
    classifier, both without steps and with the same statistics and correction: the steps of a twin
    need not be steps that a classifier can take.

    Raises:
        InputError: an unknown method or setting.
    """
    settings = variant.settings
    found = {part: changes for part, changes in _changes(settings) if _possible(variant, changes)}
    switches = [Switch(part, variant, _named(_with(variant, found[part]))) for part in found]
    if method(variant.method).model == "twin":
        still = _named(_without_steps(variant))
        plain = _on_the_classifier(still)
        if plain is not None:
            switches.append(Switch("alignment", still, plain))
    return sorted(switches, key=lambda switch: PARTS.index(switch.part))


def switched_off(variants: Iterable[Variant]) -> list[Variant]:
    """All variants that are needed to say what the parts of these methods add.

    ```python
    switched_off([Variant("tent")])  # tent:normalisation=source, tent:steps=0
    ```
    """
    given = list(variants)
    found = [each for variant in given for s in switches_of(variant) for each in (s.on, s.off)]
    return [each for each in dict.fromkeys(found) if each not in given]


def _changes(settings: AdapterSettings) -> Iterator[tuple[str, dict[str, Scalar]]]:
    """The changes that switch off each part that is there."""
    answer: dict[str, Scalar] = {"answer": "after"} if settings.answer.of_teacher else {}
    if settings.normalisation != _PLAIN.normalisation:
        yield "statistics", {"normalisation": "source"}
    if settings.correction != _PLAIN.correction:
        yield "correction", {"correction": "none"}
    if settings.steps:
        if settings.aftermath:
            yield "ensembling of weights", {"aftermath": "none"} | answer
        if settings.selection != _PLAIN.selection:
            yield "selection", {"selection": "all"}
        if settings.memory != _PLAIN.memory:
            yield "memory", {"memory": "batch"}
        # Steps may move statistics too: these go on at a learning rate of 0.
        moves = settings.normalisation.runs
        yield "steps", {"update.learning_rate": 0} if moves else {"steps": 0} | answer
    if settings.answer.flip:
        yield "ensembling of views", {"answer.flip": False}


def _without_steps(variant: Variant) -> Variant:
    """The same without steps, and without statistics that only steps would move."""
    settings = variant.settings
    changes: dict[str, Scalar] = {"steps": 0} if settings.steps else {}
    changes |= {"answer": "after"} if settings.answer.of_teacher else {}
    changes |= {"normalisation": "source"} if settings.normalisation.runs else {}
    return _with(variant, changes)


def _with(variant: Variant, changes: Mapping[str, Scalar]) -> Variant:
    """A variant with more changes; those of a part that is replaced are left out."""
    kept = {
        name: value
        for name, value in variant.changes
        if name.partition(".")[0] not in changes and name not in changes
    }
    return Variant.of(variant.method, kept | dict(changes))


def _possible(variant: Variant, changes: Mapping[str, Scalar]) -> bool:
    try:
        check_settings(_with(variant, changes).settings)
    except InputError:
        return False
    return True


def _named(variant: Variant) -> Variant:
    """The method whose own settings a variant has, so that it is not measured twice."""
    row, settings = method(variant.method), variant.settings
    for name, other in METHODS.items():
        fits = other.recipe in ("supervised", row.recipe) and other.model == row.model
        if fits and not other.oracle and other.settings == settings:
            return Variant(name)
    return variant


def _on_the_classifier(still: Variant) -> Variant | None:
    """The classifier with a variant's statistics, answer and correction; None if none says them."""
    settings = still.settings
    changes: dict[str, Scalar] = {}
    for place in ("normalisation", "correction"):
        said = _said(place, getattr(settings, place))
        if said is None:
            return None
        changes |= said
    changes |= {"answer.flip": True} if settings.answer.flip else {}
    if settings.precision != _PLAIN.precision:
        changes["precision"] = settings.precision
    return _named(Variant.of("source", changes))


def _said(place: str, part: Any) -> dict[str, Scalar] | None:
    """The changes that make a part of the plain one; None for a kind without a name."""
    if part == getattr(_PLAIN, place):
        return {}
    kinds = {kind: name for name, kind in KINDS[place].items()}
    if type(part) not in kinds:
        return None
    own = {
        f"{place}.{field.name}": getattr(part, field.name)
        for field in fields(part)
        if field.default is MISSING or getattr(part, field.name) != field.default
    }
    return {place: kinds[type(part)], **own}
