"""The guard's log: a line of JSON for each decision, bounded in size."""

import json
import logging
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from acclimate.guard.change import Change
from acclimate.guard.decide import Verdict
from acclimate.storage.atomic import cannot_write

KEPT = 1000
"""Number of decisions that are kept in memory."""
FILE_BYTES = 8 * 2**20
"""Size of a log file from which on it is renamed to NAME.1, in place of an older one."""

_log = logging.getLogger(__name__)


def decision(
    verdict: Verdict,
    change: Change,
    *,
    first: int,
    images: int,
    steps: int,
    turned: str,
    shadow: bool,
) -> dict[str, Any]:
    """A decision as JSON values: a line of the log, without the time.

    Args:
        verdict: About a batch.
        change: Found with the batch, or not.
        first: Number of its first image.
        images: Its size.
        steps: Steps that were taken on it.
        turned: What became of what was learned at a change: ``"restarted"``, ``"came back"``.
        shadow: Whether the frozen answers are given whatever the verdict.
    """
    estimate = {
        name: round(getattr(verdict.estimate, name).value, 4)
        for name in ("frozen", "adapted", "guarded")
    }
    return {
        "first": first,
        "images": images,
        "answer": "frozen" if shadow else verdict.answer,
        "verdict": verdict.answer,
        "learning": verdict.learning,
        "adapted_answers": int(verdict.use_adapted.sum()),
        "share": round(verdict.share, 4),
        "agreement": round(verdict.agreement, 4),
        "classes": round(verdict.classes, 4),
        "estimate": estimate,
        "steps_taken": steps,
        "changed": change.score if change.found else "",
        "turned": turned,
        "reason": verdict.reason,
    }


class DecisionLog:
    """Keeps the last decisions, and appends each to a file if there is one.

    A file that cannot be written later on costs its line, not the answer: a message says so once.

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
        self._path, self._failed = path, False
        if path is not None:
            try:
                path.open("a").close()
            except OSError as error:
                raise cannot_write(path, error) from error

    def add(self, decision: Mapping[str, Any]) -> None:
        """Note a decision, with the time in UTC."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **decision}
        self.last.append(line)
        if self._path is None:
            return
        try:
            _append(self._path, json.dumps(line))
        except OSError as error:
            if not self._failed:
                _log.warning(f"{cannot_write(self._path, error)} Decisions go on without it.")
            self._failed = True


def _append(path: Path, line: str) -> None:
    """Add a line to a file; a file that has become large gives way first."""
    if path.exists() and path.stat().st_size >= FILE_BYTES:
        path.replace(path.with_name(f"{path.name}.1"))
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
