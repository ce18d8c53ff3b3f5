"""The queue of the service: a stream's requests in order, small ones joined, streams in turn."""

import heapq
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from acclimate.serve.refused import RefusedError
from acclimate.serve.settings import ServeSettings


@dataclass(eq=False)
class Job:
    """A piece of a request that waits: images to adapt to, or something to do with the stream."""

    images: Tensor | None = None
    """Images of the network's input size, at most as many as a batch has; or None."""
    action: Callable[[str], Any] | None = None
    """What to do; called in the thread of the model with the stream's name."""
    follows: bool = False
    """Whether it belongs to a request that is begun with another job, so that it is never late."""
    future: Future[Any] = field(default_factory=Future)
    """Gets the answer."""
    since: float = field(default_factory=time.monotonic)
    """When it came."""

    @property
    def count(self) -> int:
        """Number of images."""
        return 0 if self.images is None else len(self.images)

    @property
    def weight(self) -> int:
        """What it counts for the bounds: its images, or 1."""
        return max(self.count, 1)


class Batcher:
    """Jobs by stream. A stream whose oldest job has waited long enough, or has a batch, is ready.

    Ready streams take turns: one that sends much waits for the others after each batch.

    ```python
    batcher = Batcher(ServeSettings())
    batcher.add("north", [Job(images)])
    stream, jobs = batcher.take(timeout=1.0)
    ```

    Args:
        settings: With the size of a batch, the time to wait, and the bounds.
    """

    def __init__(self, settings: ServeSettings):
        self._settings = settings
        self._jobs: dict[str, deque[Job]] = {}
        self._weights: dict[str, int] = {}
        self._ready: deque[str] = deque()
        self._is_ready: set[str] = set()
        self._due: list[tuple[float, int, str]] = []
        self._order = 0
        self._closed = False
        self._weight = 0
        self._changed = threading.Condition()
        self._seconds = 0.0  # of an image, recent mean

    @property
    def images(self) -> int:
        """Number of images that wait, and of other jobs."""
        return self._weight

    def add(self, stream: str, jobs: Sequence[Job]) -> None:
        """Queue jobs of a stream, in their order and with nothing in between.

        Raises:
            RefusedError: too much waits already, or the service is closing.
        """
        weight, settings = sum(job.weight for job in jobs), self._settings
        with self._changed:
            if self._closed:
                raise RefusedError("closing", "the server is closing; ask again soon.", 1)
            waits = self._weights.get(stream, 0)
            if waits and waits + weight > settings.stream_images:
                sentence = f"{waits:,} images of this stream wait already; send them more slowly."
                raise RefusedError("too_many", sentence, self._wait(waits))
            if self._weight and self._weight + weight > settings.queue_images:
                sentence = f"the server is busy: {self._weight:,} images wait; ask again later."
                raise RefusedError("overloaded", sentence, self._wait(self._weight))
            self._jobs.setdefault(stream, deque()).extend(jobs)
            self._weights[stream] = waits + weight
            self._weight += weight
            self._plan(stream)
            self._changed.notify()

    def take(self, timeout: float) -> tuple[str, list[Job]] | None:
        """The next stream's jobs: one action, or images for a batch; None if there are none yet.

        Args:
            timeout: Seconds to wait.
        """
        end = time.monotonic() + timeout
        with self._changed:
            while True:
                now = time.monotonic()
                while self._due and self._due[0][0] <= now:
                    self._make_ready(heapq.heappop(self._due)[2])
                if self._ready:
                    return self._next()
                until = min(end, self._due[0][0]) if self._due else end
                if now >= end:
                    return None
                self._changed.wait(max(until - now, 0.0))

    def took(self, images: int, seconds: float) -> None:
        """Note how long the model took for a batch; from this, when to come back is estimated."""
        each, mean = seconds / images, self._seconds
        self._seconds = 0.9 * mean + 0.1 * each if mean else each

    def close(self) -> None:
        """Take no more jobs; those that wait can still be taken, and at once."""
        with self._changed:
            self._closed = True
            for stream in self._jobs:
                self._make_ready(stream)
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether no more jobs are taken."""
        return self._closed

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._jobs

    def _next(self) -> tuple[str, list[Job]]:
        stream = self._ready.popleft()
        self._is_ready.discard(stream)
        queue = self._jobs[stream]
        taken = [queue.popleft()]
        count = taken[0].count
        while count and queue and queue[0].count:
            if count + queue[0].count > self._settings.batch:
                break
            count += queue[0].count
            taken.append(queue.popleft())
        weight = max(count, 1)
        self._weight -= weight
        self._weights[stream] -= weight
        if queue:
            self._plan(stream)
        else:
            del self._jobs[stream], self._weights[stream]
        return stream, taken

    def _plan(self, stream: str) -> None:
        """Say when a stream is ready, whose queue has changed."""
        queue = self._jobs[stream]
        whole = self._weights[stream] >= self._settings.batch
        if self._closed or whole or any(not job.count for job in queue):
            self._make_ready(stream)
        elif stream not in self._is_ready:
            self._order += 1
            due = queue[0].since + self._settings.wait_ms / 1000
            heapq.heappush(self._due, (due, self._order, stream))

    def _make_ready(self, stream: str) -> None:
        if stream in self._jobs and stream not in self._is_ready:
            self._is_ready.add(stream)
            self._ready.append(stream)

    def _wait(self, images: int) -> int:
        """Seconds until so many images are answered for, about."""
        return min(max(math.ceil(images * self._seconds), 1), 60)
