"""Changes of settings by dotted names, and settings as records of plain values."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from acclimate.errors import unknown_name
from acclimate.methods.settings import AdapterSettings

NAMES = (
    "steps",
    "update.learning_rate",
    "update.momentum",
    "update.parameters",
    "normalisation",
    "normalisation.prior",
    "objective.temperature",
    "reset",
    "one_by_one",
    "precision",
)
"""Settings that `changed` changes."""


def changed(settings: AdapterSettings, changes: Mapping[str, Any]) -> AdapterSettings:
    """Settings with some values replaced.

    ```python
    still = changed(METHODS["cta"].settings, {"update.learning_rate": 0})
    ```

    Args:
        settings: The settings to start from.
        changes: New values by the names in `NAMES`. The Adapter refuses impossible values.

    Raises:
        InputError: an unknown name.
    """
    for name in changes:
        if name not in NAMES:
            raise unknown_name("setting", name, NAMES)
    return replace(settings, **{name.rpartition(".")[2]: changes[name] for name in changes})


def settings_record(settings: AdapterSettings) -> dict[str, Any]:
    """Settings as plain values, for JSON."""
    return asdict(settings)


def settings_of_record(record: Mapping[str, Any]) -> AdapterSettings:
    """The settings that `settings_record` recorded.

    Raises:
        TypeError: the record is of another form.
    """
    return AdapterSettings(**record)
