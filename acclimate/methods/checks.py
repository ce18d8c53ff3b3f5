"""Checks of settings before an adapter is made of them."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from typing import Any, get_args, get_type_hints

from acclimate.errors import InputError, unknown_name
from acclimate.methods.kinds import KINDS
from acclimate.methods.settings import AdapterSettings
from acclimate.objectives import Taught, TemplateTurnsOptions
from acclimate.parts.answer import After
from acclimate.parts.banks import Balanced, Reservoir
from acclimate.parts.penalty import Unpenalised
from acclimate.parts.rounds import AverageOfTurns
from acclimate.parts.search import CovarianceAdaptation
from acclimate.runtime.precision import Precision

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_MAY_BE_NONE = ("objective", "update")


def check_settings(settings: AdapterSettings) -> None:
    """Refuse settings that cannot be meant.

    Raises:
        InputError: a value of another type than its setting's, or out of range; a part in the place
            of another; steps without an objective or an update, or without the teacher that the
            objective asks; a bank with answers after the steps; a penalty or an aftermath without
            gradients; an average over turns that the objective does not take, or that would end
            within a round; an unknown precision.
    """
    if not isinstance(settings, AdapterSettings):
        raise InputError(f"settings must be AdapterSettings, not {type(settings).__name__}.")
    if settings.precision not in get_args(Precision):
        raise unknown_name("precision", settings.precision, get_args(Precision))
    _check_types(settings, "")
    if settings.steps < 0:
        raise InputError(f"steps must be a whole number, 0 or more, not {settings.steps!r}.")
    for name, part in _parts(settings):
        _check_place(name, part)
        _check_types(part, f"{name}.")
        if hasattr(part, "check"):
            part.check()
    if isinstance(settings.memory, Balanced | Reservoir) and type(settings.answer) is After:
        raise InputError(
            "a bank chooses by the answers which images it keeps, so that they come before the "
            "steps: choose answer before or answer teacher."
        )
    kind = getattr(settings.objective, "kind", None)
    asks = isinstance(kind, type) and issubclass(kind, Taught)
    if settings.steps and asks and not settings.aftermath:
        raise InputError("the objective asks a teacher; add Teacher to aftermath.")
    _check_turns(settings)
    without = isinstance(settings.update, CovarianceAdaptation)
    if without and (settings.aftermath or settings.penalty != Unpenalised()):
        raise InputError(
            "the update cma-es computes no gradients and moves no weights: choose penalty none and "
            "aftermath none."
        )
    if settings.steps and (settings.objective is None or settings.update is None):
        raise InputError(
            "the method takes no gradient steps: choose a method that does, such as tent, give an "
            "objective and an update, or set steps to 0."
        )


def _check_turns(settings: AdapterSettings) -> None:
    """Refuse an average over other turns than the objective takes: it would mix up their ends.

    Steps after the last whole round would count for nothing, or for one template alone.
    """
    objective = settings.objective
    for part in settings.aftermath:
        if isinstance(part, AverageOfTurns):
            if not isinstance(objective, TemplateTurnsOptions):
                raise InputError(
                    "the aftermath turns averages over the turns of templates: choose the "
                    "objective template-turns, or another aftermath."
                )
            theirs, own = (objective.templates, objective.steps), (part.templates, part.steps)
            if theirs != own:
                raise InputError(
                    f"the objective takes turns of {theirs[0]} templates with {theirs[1]} steps "
                    f"each, and the aftermath averages over {own[0]} with {own[1]}; set templates "
                    "and steps of both alike."
                )
            whole = part.templates * part.steps
            if settings.steps % whole:
                raise InputError(
                    f"a round of {own[0]} templates with {own[1]} steps each takes {whole} steps, "
                    f"and weights are averaged at its end; set steps to a multiple of {whole}, not "
                    f"{settings.steps}."
                )


def _parts(settings: AdapterSettings) -> Iterator[tuple[str, Any]]:
    """The parts that are there, by the name of their place."""
    for name in KINDS:
        value = getattr(settings, name)
        if name == "aftermath":
            if not isinstance(value, tuple):
                raise InputError(f"aftermath must be a tuple of parts, not {value!r}.")
            yield from ((name, part) for part in value)
        elif value is not None or name not in _MAY_BE_NONE:
            yield name, value


def _check_place(name: str, part: Any) -> None:
    """Refuse what is no part, or a part of another place; kinds without a name are welcome."""
    if not is_dataclass(part) or isinstance(part, type):
        raise InputError(f"{name} must be a part such as {_example(name)}, not {part!r}.")
    others = [kind for place, kinds in KINDS.items() if place != name for kind in kinds.values()]
    if type(part) in others and type(part) not in KINDS[name].values():
        raise InputError(
            f"{type(part).__name__} is no {name}; choose one such as {_example(name)}."
        )


def _example(name: str) -> str:
    return f"{next(iter(KINDS[name].values())).__name__}()"


def _check_types(owner: Any, prefix: str) -> None:
    """Refuse values of plain settings that are of another type."""
    hints = get_type_hints(type(owner))
    for field in fields(owner):
        kinds = get_args(hints[field.name]) or (hints[field.name],)
        plain = [kind for kind in kinds if kind in _WORDS]
        value = getattr(owner, field.name)
        if plain and not (value is None and type(None) in kinds) and not _is(value, plain[0]):
            raise InputError(f"{prefix}{field.name} must be {_WORDS[plain[0]]}, not {value!r}.")


def _is(value: Any, kind: type) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    return isinstance(value, {int: Integral, float: Real, str: str}[kind])
