"""A bundle's ``bundle.json``: its checksum and older versions, and the checksum of the weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acclimate.errors import InputError
from acclimate.storage import atomic
from acclimate.storage.canonical import canonical, digest

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 3
"""Version of the record that this acclimate writes."""
WEIGHTS = "weights.safetensors"
"""File of a bundle's weights."""
_MAX_JSON_BYTES = 16 * 2**20


def read_record(path: str | Path) -> dict[str, Any]:
    """Read and verify a bundle's ``bundle.json``, but not its weights.

    ```python
    read_record("bundle")["classes"]
    ```

    Raises:
        InputError: it is missing, damaged, or from a newer version.
    """
    path = Path(path)
    file = path / "bundle.json"
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
    return _upgraded(record)


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


def sealed(record: dict[str, Any]) -> str:
    """The text of ``bundle.json``: the record with its checksum."""
    return canonical(record | {"sha256": digest(record)})


def _upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """Convert a record of an older schema to the current one."""
    if record["schema"] < 2:  # knew only CTA
        objective = {"name": "contrastive", "options": record["objective"]}
        record = record | {"recipe": "cta", "form": "plain", "objective": objective}
    if record["schema"] < 3:  # knew one way to resize
        old = {"resize": None, "mode": "crop", "interpolation": "bilinear", "rounding": "nearest"}
        record = record | {"preprocessing": {**record["preprocessing"], **old}}
    return record
