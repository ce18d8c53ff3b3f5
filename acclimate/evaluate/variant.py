"""A method with named changes of its settings."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from acclimate.errors import InputError
from acclimate.methods import AdapterSettings, method
from acclimate.methods.changes import changed

Scalar = str | int | float | bool | None

_RATE = "update.learning_rate"
_CHANGE = re.compile(r'([\w.]+)=("(?:[^"\\]|\\.)*"|[^,"]*)(?:,(?=.)|\Z)', re.DOTALL)


@dataclass(frozen=True)
class Variant:
    """A method, perhaps with named changes of its settings.

    ```python
    still = Variant.parse("cta:update.learning_rate=0")
    still == Variant.of("cta", {"update.learning_rate": 0})
    str(still)  # 'cta:update.learning_rate=0'
    still.settings.steps
    ```

    Two variants are equal if they change the same settings to the same values; their order does
    not matter.
    """

    method: str
    """A name of `acclimate.methods.METHODS`."""
    changes: tuple[tuple[str, Scalar], ...] = ()
    """Dotted names of settings and their new values, sorted by name."""

    def __post_init__(self) -> None:
        pairs = sorted((name, _canonical(value)) for name, value in self.changes)
        object.__setattr__(self, "changes", tuple(pairs))

    @classmethod
    def of(cls, method: str, changes: Mapping[str, Scalar]) -> "Variant":
        """The variant with these changes."""
        return cls(method, tuple(changes.items()))

    @classmethod
    def parse(cls, text: str) -> "Variant":
        """Read what `str` writes: ``METHOD`` or ``METHOD:setting=value,setting=value``.

        Values are JSON scalars; a word that is no JSON is a string, as in ``cta:reset=never``.

        Raises:
            InputError: the text has another form. Whether method and settings exist is checked by
                `settings`.
        """
        name, colon, rest = text.partition(":")
        found: dict[str, Scalar] = {}
        end = 0
        for match in _CHANGE.finditer(rest):
            if match.start() != end or match[1] in found or not match[2]:
                break
            found[match[1]] = _value(match[2])
            end = match.end()
        if not name or end != len(rest) or (colon and not found):
            raise InputError(
                f"{text!r} is no variant of a method; write METHOD or METHOD:setting=value, such "
                f"as cta:{_RATE}=0,steps=3."
            )
        return cls.of(name, found)

    def __str__(self) -> str:
        changes = ",".join(f"{name}={_text(value)}" for name, value in self.changes)
        return f"{self.method}:{changes}" if changes else self.method

    @property
    def settings(self) -> AdapterSettings:
        """The method's settings with the changes.

        Raises:
            InputError: an unknown method or setting, or the seed, which a grid varies by itself.
        """
        changes = dict(self.changes)
        if "seed" in changes:
            raise InputError(f"{self} changes the seed; name the grid's seeds instead.")
        try:
            return changed(method(self.method).settings, changes)
        except InputError as error:
            raise InputError(f"{self} cannot be measured: {error}") from error

    @property
    def control(self) -> bool:
        """Whether the learning rate is changed to 0, to see what a method does without steps."""
        return dict(self.changes).get(_RATE) == 0

    @property
    def frozen(self) -> "Variant":
        """The frozen classifier in this variant's precision, which it is compared with."""
        changes = {name: value for name, value in self.changes if name == "precision"}
        return Variant.of("source", changes)

    @property
    def without_steps(self) -> "Variant":
        """This variant at learning rate 0: what is left without the gradient steps."""
        return Variant.of(self.method, dict(self.changes) | {_RATE: 0})


def _canonical(value: Scalar) -> Scalar:
    """One form of each number, for 1 and 1.0 are the same setting."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _value(text: str) -> Scalar:
    try:
        found = json.loads(text, parse_constant=str)
    except ValueError:
        return text
    return text if isinstance(found, list | dict) else found


def _text(value: Scalar) -> str:
    if isinstance(value, str) and value and not set(value) & {",", '"'} and _value(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)
