"""The guard's log: a line of JSON for each decision, bounded in size."""

import json
import logging
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from acclimate.storage.atomic import cannot_write

KEPT = 1000
"""Number of decisions that are kept in memory."""
FILE_BYTES = 8 * 2**20
"""Size of a log file from which on it is renamed to NAME.1, in place of an older one."""


class DecisionLog:
    """Keeps the last decisions, and writes each to a file if there is one.

    ```python
    log = DecisionLog(Path("guard.jsonl"))
    log.add({"answer": "frozen", "reason": "..."})
    ```

    Args:
        path: Where to write; older lines of the file stay. None keeps decisions in memory alone.

    Attributes:
        last: The last `KEPT` decisions.

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, path: Path | None = None):
        self.last: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._handler: RotatingFileHandler | None = None
        if path is not None:
            try:
                self._handler = RotatingFileHandler(
                    path, maxBytes=FILE_BYTES, backupCount=1, encoding="utf-8"
                )
            except OSError as error:
                raise cannot_write(path, error) from error

    def add(self, decision: Mapping[str, Any]) -> None:
        """Note a decision, with the time in UTC."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **decision}
        self.last.append(line)
        if self._handler is not None:
            text = json.dumps(line)
            self._handler.emit(logging.makeLogRecord({"msg": text, "levelno": logging.INFO}))

    def close(self) -> None:
        """Close the file."""
        if self._handler is not None:
            self._handler.close()
