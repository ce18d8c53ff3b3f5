"""The file that says how to deploy a bundle: method, changed settings, batch and guard.

Advice ends in one, and ``--settings`` takes it. It is JSON, so that people can read and change it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acclimate.bundle_record import read_record
from acclimate.errors import InputError, unknown_name
from acclimate.evaluate.variant import Variant
from acclimate.methods import check_settings
from acclimate.storage.atomic import write_text

VERSION = 1
"""Version of the form. Files of a later one are refused."""
GUARDS = ("off", "shadow", "bounded")
"""Modes of the guard; ``off`` is none."""
_VERSION = "acclimate_settings"


@dataclass(frozen=True)
class SettingsFile:
    """How a bundle is to be deployed."""

    variant: Variant
    """The method and the settings that differ from its own."""
    batch: int
    """Images that come together."""
    guard: str
    """Mode of the guard, one of `GUARDS`."""
    weights: str
    """SHA-256 of the weights of the bundle that this is for."""

    def check(self, bundle: Path) -> None:
        """Refuse another bundle; statistics may have been added to it since.

        ```python
        load(Path("advice.json")).check(Path("bundle"))
        ```

        Raises:
            InputError: the file is for another bundle, or this one is damaged.
        """
        if read_record(bundle)["weights_sha256"] != self.weights:
            raise InputError(
                f"the settings file is for a bundle with other weights than {bundle}; run "
                "acclimate advise for this one."
            )


def save(path: Path, settings: SettingsFile, remarks: Mapping[str, Any] | None = None) -> None:
    """Write a settings file.

    ```python
    save(Path("advice.json"), settings, {"gain": 0.03})
    ```

    Args:
        path: The file.
        settings: What is written.
        remarks: JSON values for people, which `load` does not read.

    Raises:
        InputError: the file cannot be written.
    """
    record = {
        _VERSION: VERSION,
        "bundle": {"weights_sha256": settings.weights},
        "method": settings.variant.method,
        "changes": dict(settings.variant.changes),
        "batch": settings.batch,
        "guard": settings.guard,
    }
    write_text(path, json.dumps(record | {"advice": dict(remarks or {})}, indent=2) + "\n")


def load(path: Path) -> SettingsFile:
    """Read a settings file.

    ```python
    load(Path("advice.json")).variant.method
    ```

    Raises:
        InputError: it is missing, of a later version, or says what cannot be meant.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}); check the path.") from error
    except ValueError as error:
        raise _no_settings(path) from error
    version = record.get(_VERSION) if isinstance(record, dict) else None
    if type(version) is not int:
        raise _no_settings(path)
    if version > VERSION:
        raise InputError(
            f"{path} is of version {version}, and this acclimate knows {VERSION}; update "
            "acclimate, or run acclimate advise again."
        )
    return _checked(path, record)


def _checked(path: Path, record: Mapping[str, Any]) -> SettingsFile:
    """The settings of a record whose version is known."""
    checks = {
        "bundle": lambda v: isinstance(v, dict) and isinstance(v.get("weights_sha256"), str),
        "method": lambda v: isinstance(v, str),
        "changes": lambda v: isinstance(v, dict) and all(map(_is_scalar, v.values())),
        "batch": lambda v: type(v) is int and v >= 1,
        "guard": lambda v: isinstance(v, str),
    }
    for name, meant in checks.items():
        if not meant(record.get(name)):
            raise InputError(
                f"{path} has no {name} that can be meant; mend it, or run acclimate advise again."
            )
    try:
        if record["guard"] not in GUARDS:
            raise unknown_name("guard", record["guard"], GUARDS)
        variant = Variant.of(record["method"], record["changes"])
        check_settings(variant.settings)
    except InputError as error:
        raise InputError(f"{path} cannot be used: {error}") from error
    weights = record["bundle"]["weights_sha256"]
    return SettingsFile(variant, record["batch"], record["guard"], weights)


def _no_settings(path: Path) -> InputError:
    return InputError(f"{path} is no settings file; give one that acclimate advise wrote.")


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)
