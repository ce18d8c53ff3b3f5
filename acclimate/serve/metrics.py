"""What Prometheus reads of the service. No stream has a metric of its own: there may be many."""

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from acclimate.serve.model import Answers

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one service, in a registry of its own.

    ```python
    metrics = Metrics()
    metrics.images.labels("adapted").inc(3)
    print(metrics.text().decode())
    ```
    """

    def __init__(self):
        registry = CollectorRegistry()
        self.registry: CollectorRegistry = registry
        self.requests: Counter = Counter(
            "acclimate_requests",
            "Requests by interface, and by status or kind of refusal.",
            ("interface", "result"),
            registry=registry,
        )
        self.latency: Histogram = Histogram(
            "acclimate_request_seconds",
            "Time from a request's arrival to its answer.",
            ("interface",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.model: Histogram = Histogram(
            "acclimate_batch_seconds",
            "Time of the model for a batch.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch: Histogram = Histogram(
            "acclimate_batch_images",
            "Images that were adapted to together.",
            buckets=_IMAGES,
            registry=registry,
        )
        self.images: Counter = Counter(
            "acclimate_images", "Images by the model that answered.", ("model",), registry=registry
        )
        self.verdicts: Counter = Counter(
            "acclimate_verdicts",
            "Decisions of the guard about batches, by answer and by what became of the learning.",
            ("answer", "learning"),
            registry=registry,
        )
        self.estimate: Gauge = Gauge(
            "acclimate_estimated_accuracy",
            "Estimated accuracy, mean over the streams that were last seen.",
            ("model",),
            registry=registry,
        )
        self.gauges: dict[str, Gauge] = {
            name: Gauge(f"acclimate_{name}", text, registry=registry)
            for name, text in _GAUGES.items()
        }
        self.failures: Counter = Counter(
            "acclimate_failures", "Batches that the model failed on.", registry=registry
        )

    def learned(self, answers: Answers, seconds: float) -> None:
        """Count a batch, and the time that the model took for it."""
        adapted = int(answers.use_adapted.sum())
        self.images.labels("adapted").inc(adapted)
        self.images.labels("frozen").inc(len(answers.frozen) - adapted)
        self.batch.observe(len(answers.frozen))
        self.model.observe(seconds)
        if verdict := answers.verdict:
            self.verdicts.labels(verdict.answer, verdict.learning).inc()

    def tally(self) -> dict[str, int]:
        """Requests that were answered, refused, and failed."""
        found = {"answered": 0, "refused": 0, "failed": 0}
        for sample in next(iter(self.requests.collect())).samples:
            if sample.name.endswith("_total"):
                first = sample.labels["result"][:1]
                kind = {"2": "answered", "3": "answered", "4": "refused"}.get(first, "failed")
                found[kind] += int(sample.value)
        return found

    def answered(self) -> int:
        """Images that were answered for."""
        samples = next(iter(self.images.collect())).samples
        return int(sum(each.value for each in samples if each.name.endswith("_total")))

    def set_estimates(self, estimates: Sequence[Mapping[str, Any] | None]) -> None:
        """Set the mean of some streams' estimated accuracies."""
        known = [each for each in estimates if each is not None]
        self.estimate.clear()  # of streams that are gone
        for name in ("frozen", "adapted", "guarded") if known else ():
            mean = sum(each[name]["value"] for each in known) / len(known)
            self.estimate.labels(name).set(mean)

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self.registry)


_GAUGES = {
    "streams": "Streams that are known.",
    "streams_in_memory": "Streams whose states are in memory.",
    "queued_images": "Images that wait.",
    "resident_bytes": "Memory of the process.",
    "state_bytes": "Size of a stream's state.",
    "states_unsaved": "States that wait to be written.",
    "states_lost": "Streams whose last state could not be written.",
    "disk_trouble": "1 if the last write of a state failed.",
}
