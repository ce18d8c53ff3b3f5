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
        InputError: a value that JSON does not have, or text that UTF-8 does not have.
    """
    try:
        text = json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        text.encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"a bundle's record must be JSON values and text ({error}).") from error
    return text


def digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical text.

    ```python
    digest({"a": 2})
    ```
    """
    return hashlib.sha256(canonical(record).encode()).hexdigest()
