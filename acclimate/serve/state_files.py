"""States of streams on disk: sealed files, written beside the work and read when needed."""

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from acclimate.adapt.state import AdapterState
from acclimate.errors import InputError
from acclimate.storage import sealed

WAITING = 16
"""States that may wait to be written; what gives a further one waits for the disk."""
_AGAIN = 1.0  # seconds between two tries to write where the disk refuses
_SUFFIX = ".safetensors"
_LONGEST_METHOD = 100  # characters of a method's name, which messages repeat
_OF_SAFETENSORS = ".tmp??????"  # it writes to such a file first, and then renames it


@dataclass(frozen=True)
class Saved:
    """A state, and what is known of its stream."""

    state: AdapterState
    """The state."""
    record: dict[str, Any]
    """What is known of the stream: JSON values, its name among them."""


def read_state(
    content: bytes, name: str
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """Tensors, what they belong to, and the record of a stream, of the content of a state's file.

    A right seal says that the file is whole, not that this service has written it.

    ```python
    tensors, belongs, record = read_state(path.read_bytes(), path.name)
    ```

    Args:
        content: Of the whole file.
        name: What the message calls it.

    Raises:
        InputError: the file is damaged, or holds something else.
    """
    tensors, whole = sealed.of_bytes(content, name)
    if not isinstance(whole, dict):
        whole = {}
    belongs, record = (whole.get(part) for part in ("belongs", "record"))
    if isinstance(belongs, dict) and isinstance(record, dict):
        method = belongs.get("method")
        if isinstance(method, str) and len(method) <= _LONGEST_METHOD:
            return tensors, belongs, record
    raise InputError(f"{name} holds no state of a stream; delete it.")


class StateFiles:
    """The folder of states. One thread writes; `take` also finds what is not yet written.

    A file's name is a checksum of its stream's name, so that no name leads out of the folder.

    ```python
    files = StateFiles(Path("states"))
    files.put("north", Saved(state, {"stream": "north"}))
    tensors, belongs, record = files.take("north")
    files.close()
    ```

    Args:
        folder: Made if it is missing.

    Attributes:
        trouble: Why a state could not be written; None if all were.
        lost: Names of streams whose state could not be kept, for `put` was called for more
            streams than may wait while the disk refused.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.trouble: str | None = None
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in (f".*{_SUFFIX}.*.partial", _OF_SAFETENSORS):
            for left in folder.glob(unfinished):  # by a server that was killed
                left.unlink(missing_ok=True)
        self.lost: set[str] = set()
        self._waiting: OrderedDict[str, Saved] = OrderedDict()
        self._changed = threading.Condition()
        self._void: set[str] = set()
        self._writing: str | None = None
        self._refused: set[str] = set()  # of those that wait, by the disk
        self._closing = False
        self._thread = threading.Thread(target=self._write_all, name="states", daemon=True)
        self._thread.start()

    def put(self, name: str, saved: Saved) -> None:
        """Write a state soon. It must not change from now on.

        Waits where many states wait already. Where the disk refuses, the one that has waited
        longest is given up.
        """
        with self._changed:
            while len(self._waiting) >= WAITING and name not in self._waiting:
                if self._stuck:
                    given_up, _ = self._waiting.popitem(last=False)
                    self._refused.discard(given_up)
                    self.lost.add(given_up)
                else:
                    self._changed.wait(0.1)
            self._waiting[name] = saved
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Number of states that are not yet written."""
        return len(self._waiting)

    def take(
        self, name: str, most: int | None = None
    ) -> tuple[Mapping[str, Any], Mapping[str, Any], dict[str, Any]] | None:
        """Tensors, what they belong to, and the record of a stream; None if there is no state.

        Args:
            name: The stream.
            most: Largest file that is read, in bytes; None for any.

        Raises:
            InputError: the file is damaged, or too large.
        """
        with self._changed:
            waiting = self._waiting.get(name)
        if waiting is not None:
            # A copy: the writer may be reading these tensors.
            tensors = {key: tensor.clone() for key, tensor in waiting.state.tensors.items()}
            return tensors, waiting.state.belongs, waiting.record
        path = self.path(name)
        if name in self._void or not path.exists():
            return None
        if not path.is_file():
            raise InputError(f"{path} is no file; remove it.")
        if most is not None and path.stat().st_size > most:
            raise InputError(f"{path} is larger than any state of this bundle; delete it.")
        tensors, belongs, record = read_state(path.read_bytes(), str(path))
        if record.get("stream") != name:
            raise InputError(f"{path} is of another stream.")
        return tensors, belongs, record

    def remove(self, name: str) -> None:
        """Forget a stream's state."""
        with self._changed:
            self._waiting.pop(name, None)
            self._refused.discard(name)
            self.lost.discard(name)
            while self._writing == name:
                self._changed.wait()
        try:
            self.path(name).unlink(missing_ok=True)
            self._void.discard(name)
        except OSError:
            self._void.add(name)  # the disk refuses: what is there must not come back

    def records(self) -> Iterator[dict[str, Any] | None]:
        """The record of each file, without its tensors; None for a damaged one."""
        for path in filter(Path.is_file, sorted(self.folder.glob(f"*{_SUFFIX}"))):
            try:
                with path.open("rb") as opened, safe_open(f"/dev/fd/{opened.fileno()}", "pt") as f:
                    record = json.loads((f.metadata() or {})["record"])["record"]
                    yield record if self.path(record["stream"]) == path else None
            except (
                SafetensorError,
                OSError,
                ValueError,
                KeyError,
                TypeError,
                AttributeError,
                RecursionError,
            ):
                yield None

    def flush(self, timeout: float) -> bool:
        """Wait until all is written, or the disk has refused; whether all is."""
        end = time.monotonic() + timeout
        with self._changed:
            while self._waiting and time.monotonic() < end and not self._stuck:
                self._changed.wait(0.05)
            return not self._waiting

    def close(self, timeout: float = 30.0) -> bool:
        """Write what waits, and end; whether all was written."""
        done = self.flush(timeout)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return done

    def path(self, name: str) -> Path:
        """The file of a stream's state."""
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:40]}{_SUFFIX}"

    @property
    def _stuck(self) -> bool:
        """Whether the disk has refused all that waits: not one file, but the folder."""
        return self._waiting.keys() <= self._refused

    def _write_all(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                new = (name for name in self._waiting if name not in self._refused)
                name = next(new, None) or next(iter(self._waiting))
                saved, self._writing = self._waiting[name], name
            try:
                self._write(name, saved)
            finally:
                with self._changed:
                    self._writing = None
                    self._changed.notify_all()
                    if self._waiting and self._stuck:
                        self._changed.wait(_AGAIN)

    def _write(self, name: str, saved: Saved) -> None:
        record = {"belongs": saved.state.belongs, "record": saved.record}
        try:
            path = self.path(name)
            if path.exists() and not path.is_file():  # to open a pipe would wait for its reader
                raise InputError(f"cannot write {path}: it is no file; remove it.")
            sealed.save(path, saved.state.tensors, record)
        except Exception as error:  # whatever it is: it costs a state on disk, not the service
            self.trouble = str(error) or type(error).__name__
            with self._changed:
                if name in self._waiting:
                    self._waiting.move_to_end(name)
                    self._refused.add(name)
            return
        with self._changed:
            self._refused.discard(name)
            if not self._refused:
                self.trouble = None
            self.lost.discard(name)
            self._void.discard(name)
            if self._waiting.get(name) is saved:
                del self._waiting[name]
