"""What is known of a stream, beside its state."""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from acclimate.adapt.state import AdapterState
from acclimate.guard.guard import Mode
from acclimate.serve.model import Answers
from acclimate.serve.reply import estimate_record, verdict_record

HISTORY = 120
"""Number of batches of a stream that are remembered for its page."""


@dataclass
class Stream:
    """What is known of a stream, beside its state."""

    name: str
    """Its name."""
    mode: Mode
    """Mode of its guard."""
    images: int = 0
    """Images seen since it began."""
    batches: int = 0
    """Batches seen since it began."""
    changed: float = field(default_factory=time.time)
    """When its state last changed, in Unix time."""
    saved: float | None = None
    """When its state was last saved, in Unix time."""
    used: float = field(default_factory=time.monotonic)
    """When it was last asked for, by the clock that does not jump."""
    failures: float = 0.0
    """Batches that the model failed on; ten answers make up for one."""
    unsaved: int = 0
    """Images since its state was last saved."""
    save_by: float | None = None
    """When its state is to be saved, by the clock that does not jump; None if it is."""
    state: AdapterState | None = None
    """Its state, if that is in memory; the state of the stream at work is in the model."""
    note: str | None = None
    """What its owner should know: that it began anew, and why."""
    verdict: dict[str, Any] | None = None
    """The guard's last decision."""
    estimate: dict[str, Any] | None = None
    """The guard's last estimates of accuracy."""
    latency_ms: float | None = None
    """Recent mean of the time to an answer."""
    history: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=HISTORY))
    """The last batches, while its state is in memory."""

    def begin(self, note: str) -> None:
        """Begin anew: nothing is known of what it has seen."""
        self.images, self.batches, self.failures = 0, 0, 0.0
        self.state = self.verdict = self.estimate = None
        self.note = note
        self.history.clear()

    def record(self) -> dict[str, Any]:
        """What is saved with its state."""
        kept = ("mode", "images", "batches", "changed", "note")
        return {"stream": self.name} | {name: getattr(self, name) for name in kept}

    def remember(self, answers: Answers, ms: float) -> None:
        """Add a batch to the history.

        Args:
            answers: To the batch.
            ms: Milliseconds until they were there.
        """
        before, verdict = self.latency_ms, answers.verdict
        self.latency_ms = ms if before is None else 0.8 * before + 0.2 * ms
        point = {"time": self.changed, "images": len(answers.frozen), "latency_ms": round(ms, 3)}
        self.verdict = self.estimate = None
        if verdict is not None:
            self.verdict, self.estimate = verdict_record(verdict), estimate_record(verdict)
            point |= {name: self.verdict[name] for name in ("share", "agreement", "learning")}
            point["verdict"] = verdict.answer
            for name in ("frozen", "adapted", "guarded"):
                point[name] = self.estimate[name]["value"]
        self.history.append(point)
