"""JSON in one form only, so that any other text shows damage."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from acclimate.errors import InputError


def canonical(record: Mapping[str, Any]) -> str:
    """The canonical JSON text of a record.

    ```python
    canonical({"b": 1, "a": 2})  # sorted by key
    ```

    Raises:
        InputError: a value that JSON does not have.
    """
    try:
        text = json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"a bundle's record must be JSON values and text ({error}).") from error
    # Names of folders that are no UTF-8 hold surrogates, which only JSON's escapes can carry.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical text.

    ```python
    digest({"a": 2})
    ```
    """
    return hashlib.sha256(canonical(record).encode()).hexdigest()
