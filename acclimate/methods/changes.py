"""Settings changed by name, and settings as records that JSON can hold."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_args, get_type_hints

from acclimate.errors import InputError, unknown_name
from acclimate.methods.kinds import KINDS
from acclimate.methods.settings import AdapterSettings


def changed(settings: AdapterSettings, changes: Mapping[str, Any]) -> AdapterSettings:
    """Settings with some of them changed.

    ```python
    changed(settings, {"steps": 3, "update.learning_rate": 1e-4, "reset": "never"})
    ```

    Args:
        settings: What is changed; left as it is.
        changes: New values by name. The name of a part takes another kind of it by its name in
            `KINDS`, a part that was made, or a mapping of its settings.

    Raises:
        InputError: an unknown name, or an impossible value.
    """
    known = _names(settings)
    whole = {name: value for name, value in changes.items() if "." not in name}
    single = {name: value for name, value in changes.items() if "." in name}
    for name, value in whole.items():
        if isinstance(value, Mapping) and name in KINDS:
            single |= {f"{name}.{inner}": given for inner, given in value.items()}
        else:
            if name not in known:
                raise unknown_name("setting", name, known)
            settings = replace(settings, **{name: _made(settings, name, value)})
    for name, value in single.items():
        if reason := missing(settings, name):
            raise InputError(f"there is no setting {name!r}: {reason}.")
        settings = _replaced(settings, name.split("."), value, name)
    return settings


def missing(
    settings: AdapterSettings, name: str, *, whose: str = "the method", flag: str = ""
) -> str | None:
    """Why there is no setting of a part, and which choice has it.

    ```python
    missing(METHODS["tent"].settings, "update.momentum")
    # "the update of the method is adam, which has no momentum; choose update sgd or update sam"
    ```

    Args:
        settings: The settings of the method.
        name: Name of the part and the setting.
        whose: What the method is called.
        flag: What precedes the names of parts where they are options: ``--``.

    Returns:
        None where the settings have it. Also where no kind of the part has it: then it is no name.
    """
    part, _, option = name.partition(".")
    if part not in KINDS:
        return None
    owner: Any = getattr(settings, part)
    if isinstance(owner, tuple):
        place, _, option = option.partition(".")
        owner = dict(zip(map(str, range(len(owner))), owner)).get(place)
    option = option.partition(".")[0]
    having = [kind for kind, made in KINDS[part].items() if option in _settings_of(made)]
    if not having or (owner is not None and option in _settings_of(owner)):
        return None
    if owner is None and part in ("objective", "update"):
        other = "--method tent" if flag else "tent"
        return f"{whose} takes no gradient steps; choose a method that does, such as {other}"
    choice = " or ".join(f"{flag}{part} {kind}" for kind in having)
    if owner is None:
        return f"{whose} has no {part}; choose {choice}"
    names = {made: kind for kind, made in KINDS[part].items()}
    kind = names.get(type(owner), type(owner).__name__)
    return f"the {part} of {whose} is {kind}, which has no {option}; choose {choice}"


def settings_record(settings: AdapterSettings) -> dict[str, Any]:
    """Settings as JSON can hold them; parts carry the name of their kind.

    Without a penalty none is named, as in records of before there was this part.
    """
    record = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name == "penalty" and value == field.default:
            continue
        kinds = {kind: name for name, kind in KINDS.get(field.name, {}).items()}
        if isinstance(value, tuple):
            record[field.name] = [_part_record(part, kinds) for part in value]
        else:
            record[field.name] = _part_record(value, kinds) if is_dataclass(value) else value
    return record


def settings_of_record(record: Mapping[str, Any]) -> AdapterSettings:
    """The settings that a record was made of.

    Raises:
        InputError: an unknown kind of a part, an unknown setting, or no record.
    """
    if not isinstance(record, Mapping):
        raise InputError(f"a record of settings is a mapping of names, not {record!r}.")
    values = {}
    for name, value in record.items():
        kinds = KINDS.get(name, {})
        if isinstance(value, list):
            values[name] = tuple(_part_of_record(name, part, kinds) for part in value)
        else:
            values[name] = (
                value if value is None or not kinds else _part_of_record(name, value, kinds)
            )
    return changed(AdapterSettings(), values)


def _settings_of(part: Any) -> list[str]:
    """The names of the settings of a part, or of a kind of it."""
    return [field.name for field in fields(part)] if is_dataclass(part) else []


def _names(settings: AdapterSettings) -> list[str]:
    """The names of settings and parts, and of the parts' settings."""
    parts = {field.name: getattr(settings, field.name) for field in fields(settings)}
    inner = [f"{name}.{each}" for name, part in parts.items() for each in _settings_of(part)]
    return [*parts, *inner]


def _made(settings: AdapterSettings, name: str, value: Any) -> Any:
    """A part of a kind given by name; it keeps the settings that both kinds have."""
    kinds = KINDS.get(name)
    if name == "aftermath":  # one part, or several
        if value == "none":
            return ()
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(
            _made_kind(None, KINDS[name], name, v) if isinstance(v, str) else v for v in values
        )
    if kinds is None or not isinstance(value, str):
        if kinds and not (value is None or isinstance(value, tuple) or is_dataclass(value)):
            raise unknown_name(name, value, kinds)
        return value
    return _made_kind(getattr(settings, name), kinds, name, value)


def _made_kind(before: Any, kinds: Mapping[str, type], name: str, value: str) -> Any:
    if value not in kinds:
        raise unknown_name(name, value, kinds)
    hints = get_type_hints(kinds[value])
    names = {field.name for field in fields(kinds[value])}
    kept = {} if before is None else {f.name: getattr(before, f.name) for f in fields(before)}
    # None stands for what a kind finds by itself; another kind may not.
    shared = {
        key: given
        for key, given in kept.items()
        if key in names and (given is not None or type(None) in get_args(hints[key]))
    }
    return kinds[value](**shared)


def _replaced(owner: Any, path: list[str], value: Any, whole: str) -> Any:
    """The owner with the setting at a path replaced."""
    first, *rest = path
    if isinstance(owner, tuple):
        if not rest:
            raise InputError(f"{whole!r} names a part; name one of its settings, {whole}.NAME.")
        if first not in map(str, range(len(owner))):
            raise InputError(f"there is no {whole!r}: the method has {len(owner)} of this part.")
        place = int(first)
        return (*owner[:place], _replaced(owner[place], rest, value, whole), *owner[place + 1 :])
    if not is_dataclass(owner) or isinstance(owner, type):
        raise InputError(f"there is no setting {whole!r}: the method does not have that part.")
    known = _settings_of(owner)
    if first not in known:
        if not known:
            raise InputError(f"there is no setting {whole!r}: {type(owner).__name__} has none.")
        raise unknown_name(
            "setting", whole, [whole.removesuffix(".".join(path)) + k for k in known]
        )
    inner = _replaced(getattr(owner, first), rest, value, whole) if rest else value
    return replace(owner, **{first: inner})


def _part_record(part: Any, kinds: Mapping[type, str]) -> dict[str, Any]:
    kind = kinds.get(type(part), type(part).__qualname__)
    return {"kind": kind} | {field.name: getattr(part, field.name) for field in fields(part)}


def _part_of_record(name: str, record: Any, kinds: Mapping[str, type]) -> Any:
    if not isinstance(record, Mapping):
        raise InputError(f"the record of {name} must be a mapping with a kind, not {record!r}.")
    record = dict(record)
    kind = record.pop("kind", None)
    if not isinstance(kind, str) or kind not in kinds:
        raise unknown_name(name, str(kind), kinds)
    known = {field.name for field in fields(kinds[kind])}
    for key in record.keys() - known:
        raise unknown_name(f"setting of {name}", key, known)
    return kinds[kind](**record)
