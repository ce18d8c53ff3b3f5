"""The streams that the service knows: each with its state in the model, in memory or on disk."""

import time
from collections import OrderedDict
from typing import Any

from acclimate.adapt.state import AdapterState
from acclimate.errors import InputError
from acclimate.guard.guard import Mode
from acclimate.serve.model import SharedModel
from acclimate.serve.names import is_name
from acclimate.serve.refused import RefusedError
from acclimate.serve.settings import ServeSettings
from acclimate.serve.state_files import WAITING, Saved, StateFiles
from acclimate.serve.stream import Stream

_SPARE = 2**24  # bytes of a file beyond its tensors: their names, and the record
_PATIENCE = 3  # failures of a stream until its saved state is given up


class Streams:
    """All streams. Only the thread of the model may call the methods that change anything.

    ```python
    streams = Streams(model, ServeSettings(), StateFiles(folder))
    stream = streams.enter("north")  # its state is in the model now
    answers = model(images, stream.mode)
    streams.learned(stream, len(images))
    ```

    Args:
        model: The model; its present state is nobody's.
        settings: With the bounds.
        files: Where states go that are not in memory.
    """

    def __init__(self, model: SharedModel, settings: ServeSettings, files: StateFiles):
        self.model: SharedModel = model
        self.settings: ServeSettings = settings
        self.files: StateFiles = files
        self._known: OrderedDict[str, Stream] = OrderedDict()  # the most recently used last
        self._held: OrderedDict[str, Stream] = OrderedDict()  # of these, the states in memory
        self._dirty: OrderedDict[str, Stream] = OrderedDict()  # by the time of their first change
        self._at_work: Stream | None = None
        self._remembered()

    def __len__(self) -> int:
        return len(self._known)

    @property
    def in_memory(self) -> int:
        """Number of streams whose states are in memory."""
        return len(self._held)

    def get(self, name: str) -> Stream | None:
        """A stream by name; None for an unknown one. Any thread may ask."""
        return self._known.get(name)

    def all(self) -> list[Stream]:
        """All streams, the most recently used first. Any thread may ask."""
        return list(self._known.values())[::-1]

    def holds(self, stream: Stream) -> bool:
        """Whether a stream's state is in memory."""
        return stream.name in self._held

    def enter(self, name: str) -> Stream:
        """Bring a stream's state into the model; a stream that is not known begins.

        Raises:
            RefusedError: it would be one stream too many.
        """
        stream = self._known.get(name) or self._new(name)
        stream.used = time.monotonic()
        self._known.move_to_end(name)
        if stream is not self._at_work:
            state = self._state_of(stream)
            self.model.swap(state)  # holds the state of the stream before now
            if self._at_work is not None:
                self._at_work.state = state
            stream.state, self._at_work = None, stream
            self._held[name] = stream
        self._held.move_to_end(name)
        self._make_room()
        return stream

    def learned(self, stream: Stream, images: int) -> None:
        """Note that the stream at work has seen images."""
        stream.images += images
        stream.batches += 1
        stream.failures = max(stream.failures - 0.1, 0.0)
        self.touch(stream, images)

    def touch(self, stream: Stream, images: int = 0) -> None:
        """Note that the state of a stream has changed, and is to be saved."""
        stream.changed = time.time()
        stream.unsaved += images
        if stream.save_by is None:
            stream.save_by = time.monotonic() + self.settings.save_s
            self._dirty[stream.name] = stream
        if stream.unsaved >= self.settings.save_images:
            stream.save_by = time.monotonic()
            self._dirty.move_to_end(stream.name, last=False)

    def begin_anew(self, name: str, note: str | None = None) -> Stream:
        """Forget what a stream has learned; its mode stays."""
        mode = known.mode if (known := self._known.get(name)) else self.model.modes[0]
        self.forget(name)
        stream = self.enter(name)
        stream.mode, stream.note = mode, note
        self.touch(stream)
        return stream

    def restore(self, name: str, state: AdapterState, record: dict[str, Any]) -> Stream:
        """Go on from a state of a stream that was saved, perhaps of another name."""
        state = self.model.own(state.tensors, state.belongs)  # before anything is forgotten
        stream = self.begin_anew(name, "its state was restored by request")
        self.model.swap(state)
        stream.images, stream.batches = record["images"], record["batches"]
        self.touch(stream)
        return stream

    def copy_of(self, name: str) -> Saved:
        """A copy of a stream's state, with its record."""
        stream = self.enter(name)
        return self._saved(stream, self.model.snapshot())

    def set_mode(self, name: str, mode: Mode) -> Stream:
        """Set the mode of a stream's guard."""
        stream = self.enter(name)
        stream.mode = mode
        self.touch(stream)
        return stream

    def forget(self, name: str) -> None:
        """Forget a stream altogether, also on disk."""
        stream = self._known.pop(name, None)
        self._held.pop(name, None)
        self._dirty.pop(name, None)
        if stream is not None and stream is self._at_work:
            self._at_work = None  # what is in the model is nobody's now
        self.files.remove(name)

    def lose(self, name: str, note: str, *, blame: bool = True) -> None:
        """Let a stream, whose state in the model is not to be trusted, go on from its saved one.

        Where that fails again and again, it begins anew. Its file stays until a new state is saved.

        Args:
            name: The stream.
            note: What its owner should know.
            blame: Whether its state may be at fault.
        """
        stream = self._known.get(name)
        self._held.pop(name, None)
        self._dirty.pop(name, None)
        if stream is not None:
            if stream is self._at_work:
                self._at_work = None
            stream.state, stream.save_by, stream.note = None, None, note
            stream.failures += blame
            if stream.failures >= _PATIENCE:
                stream.begin("began anew: its batches failed again and again")
                stream.state, self._held[name] = self.model.fresh(), stream

    def expire(self) -> int:
        """Forget the streams that were not asked for in a long time; how many."""
        end = time.monotonic() - self.settings.idle_s
        idle = []
        for stream in self._known.values():  # in the order of their use
            if stream.used > end:
                break
            idle.append(stream.name)
        for name in idle:
            self.forget(name)
        return len(idle)

    def save_due(self) -> float | None:
        """Save one stream that is due, if the disk has room for it; seconds until the next one."""
        for stream in self._dirty.values():
            wait = (stream.save_by or 0.0) - time.monotonic()
            if wait > 0:
                return wait
            if self.files.waiting >= WAITING // 2:
                return 0.05
            self._save(stream)
            return 0.0
        return None

    def save_all(self) -> None:
        """Save all that has changed."""
        for stream in list(self._dirty.values()):
            self._save(stream)

    def renew(self, model: SharedModel, note: str) -> None:
        """Go on with another model: streams whose states do not fit it begin anew."""
        fits = model.fresh().belongs == self.model.fresh().belongs
        if self._at_work is not None:
            self._at_work.state = self.model.snapshot()
            self._at_work = None
        if not fits:
            self.save_all()  # for the case that the other model comes back
            self._held.clear()
        belongs = model.fresh().belongs
        for stream in self._known.values():
            if not model.may_have(stream.mode, guarded=self.model.guarded):
                stream.mode = model.modes[0]
            if not fits:
                stream.begin(note)
            elif stream.state is not None:
                stream.state = AdapterState(stream.state.tensors, belongs)
        self.model = model

    def _save(self, stream: Stream) -> None:
        self._dirty.pop(stream.name, None)
        stream.save_by, stream.unsaved, stream.saved = None, 0, time.time()
        if stream is self._at_work:
            self.files.put(stream.name, self._saved(stream, self.model.snapshot()))
        elif stream.state is not None:
            copy = {name: tensor.clone() for name, tensor in stream.state.tensors.items()}
            state = AdapterState(copy, stream.state.belongs)
            self.files.put(stream.name, self._saved(stream, state))

    def _saved(self, stream: Stream, state: AdapterState) -> Saved:
        return Saved(state, stream.record() | {"guarded": self.model.guarded})

    def _make_room(self) -> None:
        """Send the states of the least recently used streams to disk, where there are too many."""
        while len(self._held) > self.settings.in_memory:
            name, stream = self._held.popitem(last=False)
            if name in self._dirty and stream.state is not None:
                self._dirty.pop(name)
                stream.save_by, stream.unsaved, stream.saved = None, 0, time.time()
                self.files.put(name, self._saved(stream, stream.state))
            stream.state = None
            stream.history.clear()

    def _state_of(self, stream: Stream) -> AdapterState:
        """The state of a stream that is not at work: in memory, on disk, or a new one."""
        if stream.state is not None:
            return stream.state
        lost = stream.name in self.files.lost
        try:
            found = self.files.take(stream.name, 2 * self.model.state_bytes + _SPARE)
            if found is not None:
                tensors, belongs, record = found
                state = self.model.own(tensors, belongs)
                if lost:
                    stream.note = f"went on from an older state: {self.files.trouble}"
                stream.images = int(_number(record["images"]))
                stream.batches = int(_number(record["batches"]))
                return state
            if stream.images == 0:
                return self.model.fresh()
            reason = self.files.trouble or "its saved state is gone"
        except (InputError, OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error)
        stream.note = f"began anew: {reason}"
        stream.images = stream.batches = 0
        return self.model.fresh()

    def _new(self, name: str) -> Stream:
        if len(self._known) >= self.settings.streams:
            self.expire()
        if len(self._known) >= self.settings.streams:
            raise RefusedError(
                "overloaded",
                f"there are {self.settings.streams:,} streams, and no more can begin; delete one.",
                retry_after=60,
            )
        stream = Stream(name, self.model.modes[0])
        self._known[name] = stream
        return stream

    def _remembered(self) -> None:
        """Know the streams whose states an earlier server has saved."""
        now = time.time()
        found = [each for each in self.files.records() if each and is_name(each["stream"])]
        found.sort(key=lambda record: _number(record.get("changed")))
        for record in found[-self.settings.streams :]:
            saved = _number(record.get("changed"))
            stream = Stream(record["stream"], self.model.modes[0], changed=saved, saved=saved)
            mode: Any = record.get("mode")
            guarded = bool(record.get("guarded", True))
            if self.model.may_have(mode, guarded=guarded):
                stream.mode = mode
            stream.images = int(_number(record.get("images")))
            stream.batches = int(_number(record.get("batches")))
            age = max(now - saved, 0.0)
            stream.note = f"goes on from a state saved {age:,.0f} s before the server started"
            self._known[stream.name] = stream


def _number(value: Any) -> float:
    """A number of a record; 0 for anything else, and for one that cannot be meant."""
    return float(value) if isinstance(value, int | float) and 0 <= value < 2**53 else 0.0
