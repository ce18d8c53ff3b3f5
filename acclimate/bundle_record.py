"""A bundle's ``bundle.json``: its checksum and older versions, and the checksum of the weights."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acclimate.errors import InputError
from acclimate.storage import atomic
from acclimate.storage.canonical import canonical, digest

if TYPE_CHECKING:
    from torch import Tensor

    from acclimate.preprocessing import Preprocessing

SCHEMA = 3
"""Version of the record that this acclimate writes."""
RECORD = "bundle.json"
"""File of a bundle's record."""
WEIGHTS = "weights.safetensors"
"""File of a bundle's weights."""
STATISTICS = "statistics.safetensors"
"""File of a bundle's statistics of source images; absent where there are none."""
_MAX_JSON_BYTES = 16 * 2**20


def is_bundle(path: str | Path) -> bool:
    """Whether a path is that of a bundle, as far as its files' names show.

    ```python
    is_bundle("bundle")
    ```
    """
    return (Path(path) / RECORD).is_file()


def read_record(path: str | Path) -> dict[str, Any]:
    """Read and verify a bundle's ``bundle.json``, but not its weights.

    ```python
    read_record("bundle")["classes"]
    ```

    Raises:
        InputError: it is missing, damaged, or from a newer version.
    """
    path = Path(path)
    file = path / RECORD
    if not path.exists():
        raise InputError(f"{path} does not exist; give the folder of a bundle.")
    if not file.is_file():
        raise InputError(f"{path} is no bundle: it has no bundle.json; give a bundle's folder.")
    damaged = InputError(f"{file} is damaged; restore it from a good copy.")
    if file.stat().st_size > _MAX_JSON_BYTES:
        raise damaged
    try:
        text = file.read_bytes().decode("utf-8")
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged from error
    if not isinstance(record, dict) or not isinstance(record.get("schema"), int):
        raise damaged
    if record["schema"] > SCHEMA:
        raise InputError(
            f"{path} was written by a newer acclimate (bundle schema {record['schema']}, this one "
            f"reads up to {SCHEMA}); upgrade acclimate."
        )
    claimed = record.pop("sha256", None)
    if claimed != digest(record) or text != canonical(record | {"sha256": claimed}):
        raise damaged
    record = _upgraded(record, damaged)
    for name, is_valid in _VALIDATORS.items():
        if (name not in record and name not in _YOUNGER) or not is_valid(record.get(name)):
            raise InputError(
                f"{file} is damaged, its {name} is missing or cannot be meant; restore it from a "
                "good copy."
            )
    return record


def read_tensors(path: str | Path, record: Mapping[str, Any]) -> dict[str, "Tensor"]:
    """Read a bundle's weights and verify their checksum; the network itself is not needed.

    ```python
    tensors = read_tensors("bundle", read_record("bundle"))
    ```

    Raises:
        InputError: they are missing or damaged.
    """
    from acclimate.storage.sealed import read_safetensors

    weights = Path(path) / WEIGHTS
    if not weights.is_file():
        raise InputError(f"{path} has no {WEIGHTS}; restore it from a good copy.")
    if atomic.sha256(weights) != record["weights_sha256"]:
        raise InputError(
            f"{weights} is damaged: its checksum does not match; restore it from a good copy."
        )
    return read_safetensors(weights)[0]


def write_statistics(path: str | Path, tensors: Mapping[str, "Tensor"]) -> dict[str, str]:
    """Write statistics of source images, if there are any.

    Returns:
        What the record says of them: their checksum. Nothing where there are none.

    Raises:
        InputError: they are not finite, or cannot be written.
    """
    from acclimate.storage import sealed as file

    if not tensors:
        return {}
    _check_statistics(tensors, "the bundle's statistics of source images")
    file.save(Path(path) / STATISTICS, tensors, {})
    # Of the tensors, for the order of a file's metadata varies.
    return {"statistics_sha256": file.digest(tensors, "")}


def read_statistics(path: str | Path, record: Mapping[str, Any]) -> dict[str, "Tensor"]:
    """Read a bundle's statistics of source images; none if it has none.

    ```python
    sorted(read_statistics("bundle", read_record("bundle")))
    ```

    Raises:
        InputError: they are missing though the record has them, or damaged.
    """
    from acclimate.storage import sealed as file

    if record.get("statistics_sha256") is None:
        return {}
    place = Path(path) / STATISTICS
    try:
        tensors, _ = file.load(place)
    except InputError as error:
        raise InputError(f"{place} is missing or damaged; restore it from a good copy.") from error
    if file.digest(tensors, "") != record["statistics_sha256"]:
        raise InputError(f"{place} is of another bundle; restore it from a good copy.")
    _check_statistics(tensors, str(place))
    return tensors


def _check_statistics(tensors: Mapping[str, "Tensor"], what: str) -> None:
    if not all(t.is_floating_point() and t.isfinite().all() for t in tensors.values()):
        raise InputError(f"{what} are not all finite numbers; measure the bundle anew.")


def sealed(record: dict[str, Any]) -> str:
    """The text of ``bundle.json``: the record with its checksum."""
    return canonical(record | {"sha256": digest(record)})


def preprocessing_of(record: Mapping[str, Any]) -> "Preprocessing":
    """The preprocessing of a record.

    ```python
    preprocessing_of(read_record("bundle")).size
    ```

    Raises:
        InputError: the record's values cannot be meant.
    """
    from acclimate.preprocessing import Preprocessing

    try:
        return Preprocessing(**record["preprocessing"])
    except TypeError as error:
        raise InputError(
            f"the bundle's preprocessing is damaged ({error}); restore it from a good copy."
        ) from error


def _upgraded(record: dict[str, Any], damaged: InputError) -> dict[str, Any]:
    """Convert a record of an older schema to the current one."""
    if not isinstance(record.get("preprocessing"), dict) or "objective" not in record:
        raise damaged
    if record["schema"] < 2:  # knew only CTA
        objective = {"name": "contrastive", "options": record["objective"]}
        record = record | {"recipe": "cta", "form": "plain", "objective": objective}
    if record["schema"] < 3:  # knew one way to resize
        old = {"resize": None, "mode": "crop", "interpolation": "bilinear", "rounding": "nearest"}
        record = record | {"preprocessing": {**record["preprocessing"], **old}}
    return record


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    return type(value) in (int, float) and low <= value <= high


def _is_objective(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and isinstance(value.get("name"), str)
        and isinstance(value.get("options"), dict)
    )


def _are_trusts(value: Any) -> bool:
    return _are(value, dict) and all(
        each.keys() == {"prior", "limit"}
        and _is_number(each["prior"], 0)
        and _is_number(each["limit"], 0, 1)
        for each in (value or {}).values()
    )


def _are_logits(value: Any) -> bool:
    return _are(value, list) and all(
        isinstance(row, list) and len(row) == len(rows[0]) and all(map(_is_number, row))
        for rows in (value or {}).values()
        for row in rows
    )


def _are(value: Any, kind: type) -> bool:
    """Whether these are values of a kind by name, or none: older records lack them."""
    named = isinstance(value, dict) and all(isinstance(each, kind) for each in value.values())
    return value is None or named


_YOUNGER = ("trust", "switches", "logits", "statistics_sha256")
"""Entries that older records lack."""
_VALIDATORS: dict[str, Callable[[Any], bool]] = {
    "architecture": _is_text,
    "twin_architecture": lambda value: value is None or isinstance(value, str),
    "preprocessing": lambda value: isinstance(value, dict),
    "classes": lambda value: isinstance(value, list) and value != [] and all(map(_is_text, value)),
    "method": _is_text,
    "recipe": _is_text,
    "form": _is_text,
    "objective": _is_objective,
    "trust": _are_trusts,
    "provenance": lambda value: isinstance(value, dict),
    "switches": lambda value: _are(value, bool),
    "logits": _are_logits,
    "statistics_sha256": lambda value: value is None or isinstance(value, str),
    "weights_sha256": _is_text,
}
"""The check that each entry must pass: a checksum says only that nothing changed by accident."""
