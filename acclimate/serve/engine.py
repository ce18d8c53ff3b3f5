"""The engine of the service, without HTTP: one model, many streams, one thread that adapts."""

import logging
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from acclimate.errors import InputError
from acclimate.runtime.budget import out_of_memory
from acclimate.serve.batcher import Batcher, Job
from acclimate.serve.images import joined
from acclimate.serve.metrics import Metrics
from acclimate.serve.model import SharedModel, Wish
from acclimate.serve.names import check_name
from acclimate.serve.refused import RefusedError
from acclimate.serve.reply import Gathered, Place, Reply
from acclimate.serve.settings import ServeSettings
from acclimate.serve.state_files import StateFiles
from acclimate.serve.stream import Stream
from acclimate.serve.streams import Streams
from acclimate.storage.atomic import only_writer
from acclimate.storage.targets import check_writable

_CONTROL = ""  # the name under which the service's own work waits; no stream has it
_log = logging.getLogger(__name__)


class Engine:
    """Adapts to many streams with one model, and answers for them, each as if it were alone.

    ```python
    engine = Engine(Path("quickstart/bundle")).start()
    reply = engine.submit("north", images).result()
    print(reply.given.argmax(1), reply.answers.verdict)
    engine.close()
    ```

    The same batches of a stream get the same answers, bit for bit, as from an adapter or guard of
    its own; `Reply.places` says which images were in a batch together.

    Args:
        path: The bundle's folder.
        settings: Limits and times.
        wish: How the bundle is to be served.
        state_dir: Folder of the streams' states, which a later engine goes on from; None takes a
            temporary folder.

    Attributes:
        model: The model in use.
        path: Its folder.
        streams: The streams; to be changed by the engine alone.
        metrics: What Prometheus reads.
        keeps: Whether states stay when the engine ends.
        remembered: Number of streams that an earlier engine has left.
        ready: Whether the model has answered once.
        started, since: When the engine and the present bundle began, in Unix time.

    Raises:
        InputError: the bundle cannot be served, or the folder is not writable or in use.
    """

    def __init__(
        self,
        path: Path,
        settings: ServeSettings | None = None,
        wish: Wish | None = None,
        state_dir: Path | None = None,
    ):
        self.settings: ServeSettings = settings or ServeSettings()
        self._wish = wish or Wish()
        self.path: Path = path
        self._open = ExitStack()
        self.model: SharedModel = SharedModel.load(path, self._wish)
        self.keeps: bool = state_dir is not None
        if state_dir is not None:
            check_writable(state_dir)
        if state_dir is None:
            state_dir = Path(self._open.enter_context(tempfile.TemporaryDirectory()))
        self._open.enter_context(only_writer(state_dir))
        self._files = StateFiles(state_dir)
        self.streams: Streams = Streams(self.model, self.settings, self._files)
        self.remembered: int = len(self.streams)
        self.metrics: Metrics = Metrics()
        self.started: float = time.time()
        self.since: float = self.started
        self.ready: bool = False
        self._batcher = Batcher(self.settings)
        self._closed = threading.Event()
        self._switching = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._next_expiry = 0.0

    @property
    def trouble(self) -> str | None:
        """Why states cannot be saved; None if they can."""
        return self._files.trouble

    @property
    def unsaved(self) -> int:
        """Number of states that wait to be written."""
        return self._files.waiting

    @property
    def lost(self) -> int:
        """Number of streams whose last state could not be written."""
        return len(self._files.lost)

    @property
    def queued(self) -> int:
        """Number of images that wait."""
        return self._batcher.images

    def start(self) -> "Engine":
        """Start the thread of the model."""
        self._thread.start()
        return self

    def submit(
        self, stream: str, images: Tensor, *, start: bool = False, end: bool = False
    ) -> "Future[Reply]":
        """Queue images of a stream. More than a batch are adapted to one batch after the other.

        Args:
            stream: Name of the stream, which begins if there is none.
            images: Of the network's input size, see `acclimate.serve.images`.
            start: Whether the stream forgets what it has learned first.
            end: Whether it is forgotten afterwards.

        Raises:
            RefusedError: a bad name, or too much waits already.
        """
        jobs = [Job(images=piece) for piece in images.split(self.settings.batch)]
        before = [Job(action=self.streams.begin_anew)] if start else []
        after = [Job(action=self.streams.forget)] if end else []
        jobs = [*before, *jobs, *after]
        for job in jobs[1:]:
            job.follows = True
        gathered = Gathered([job.future for job in jobs])
        self._batcher.add(check_name(stream), jobs)
        return gathered.future

    def ask(self, stream: str, action: Callable[[Streams, str], Any]) -> Future[Any]:
        """Queue something to do with a stream, after the requests that came before.

        ```python
        engine.ask("north", lambda streams, name: streams.begin_anew(name)).result()
        ```

        Raises:
            RefusedError: a bad name, or too much waits already.
        """
        job = Job(action=lambda name: action(self.streams, name))
        self._batcher.add(check_name(stream), [job])
        return job.future

    def known(self, name: str) -> Stream:
        """A stream by its name.

        Raises:
            RefusedError: there is none.
        """
        found = self.streams.get(check_name(name))
        if found is None:
            raise RefusedError(
                "not_found", f"there is no stream {name!r}; it begins with its images."
            )
        return found

    def switch(self, path: Path | None = None) -> SharedModel:
        """Load a bundle beside the present one, then answer with it.

        Args:
            path: Its folder; None loads the present folder again.

        Raises:
            InputError: it cannot be served, or another is being loaded; then the present one
                stays.
        """
        if not self._switching.acquire(blocking=False):
            raise RefusedError("conflict", "another bundle is being loaded; ask again later.", 5)
        try:
            path = path or self.path
            model = SharedModel.load(path, self._wish)
            model.warm_up()
            job = Job(action=lambda _: self._renew(model, path))
            self._batcher.add(_CONTROL, [job])
            job.future.result()
            return model
        finally:
            self._switching.release()

    def close(self) -> None:
        """Take no more requests, answer those that wait, save all states, and end."""
        self._batcher.close()
        if self._thread.is_alive():
            self._thread.join()
        if not self._closed.is_set():
            self._closed.set()
            self._files.close()
            self._open.close()

    def _renew(self, model: SharedModel, path: Path) -> None:
        note = f"began anew: the bundle {model.name} was loaded, to which its state does not fit"
        self.streams.renew(model, note)
        self.model, self.path, self.since = model, path, time.time()

    def _run(self) -> None:
        """Work until the engine is closed and nothing waits."""
        try:
            self.model.warm_up()
            self.ready = True
        except Exception as error:  # requests may fare better, with less memory for one
            _log.error(f"the model does not answer: {error}")
        closing = False
        while not closing:
            wait = self._care()
            found = self._batcher.take(wait)
            if found is not None:
                self._work(*found)
            else:
                closing = self._batcher.closed and self._batcher.empty
        self.ready = False
        self.streams.save_all()
        if not self._files.close():
            _log.warning(f"some states were not saved: {self._files.trouble}")

    def _care(self) -> float:
        """Save and forget what is due; seconds until the next time."""
        try:
            if time.monotonic() >= self._next_expiry:
                self.streams.expire()
                self._next_expiry = time.monotonic() + min(self.settings.idle_s / 10, 60.0)
            due = self.streams.save_due()
        except Exception as error:  # costs a save, not the service
            _log.error(f"a state was not saved: {type(error).__name__}: {error}")
            return 1.0
        return 0.5 if due is None else min(due, 0.5)

    def _work(self, stream: str, jobs: list[Job]) -> None:
        """Do what a stream's jobs ask for; whatever goes wrong is told to them alone."""
        jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
        begun = time.monotonic() - self.settings.timeout_s
        late = [job for job in jobs if job.since < begun and not job.follows]
        for job in late:
            sentence = f"the request waited {self.settings.timeout_s:g} s; ask again later."
            job.future.set_exception(RefusedError("too_late", sentence, 1))
        jobs = [job for job in jobs if job not in late]
        if not jobs:
            return
        try:
            action = jobs[0].action
            results = [action(stream)] if action else self._answer(stream, jobs)
        except InputError as error:
            results = [error] * len(jobs)
        except Exception as error:
            self.metrics.failures.inc()
            _log.error(f"a batch of a stream failed: {type(error).__name__}: {error}")
            note = f"went back: a batch failed ({type(error).__name__})"
            self.streams.lose(stream, note, blame=not out_of_memory(error))
            refused = RefusedError(
                "failed", "the model failed on this batch; the stream goes on.", 1
            )
            results = [refused] * len(jobs)
        for job, result in zip(jobs, results):
            if isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)

    def _answer(self, name: str, jobs: list[Job]) -> list[Reply]:
        """Adapt to the images of some requests together, and answer each."""
        stream = self.streams.enter(name)
        images = joined([job.images for job in jobs if job.images is not None], self.model.shape)
        began = time.monotonic()
        answers = self.model(images, stream.mode)
        ended = time.monotonic()
        number, mode = stream.batches, stream.mode
        self.streams.learned(stream, len(images))
        replies, first = [], 0
        for job in jobs:
            rows = slice(first, first + job.count)
            place = Place(number, len(images), first, job.count)
            ms = 1000 * (ended - job.since)
            own = answers.part(rows)
            classes = self.model.bundle.classes
            replies.append(Reply(name, mode, classes, own, (place,), ms))
            first += job.count
        self.ready = True
        stream.remember(answers, replies[0].ms)
        self.metrics.learned(answers, ended - began)
        self._batcher.took(len(images), ended - began)
        return replies
