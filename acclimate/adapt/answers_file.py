"""The answers of a run as a CSV file that grows with each batch, and how to go on with it.

Answers go to ``NAME.partial`` beside the file. Now and then, and after Ctrl-C, the state of adapter
and guard is written to ``NAME.partial.state``, with the length of the partial file at that time.
The same run again cuts the partial file to that length, takes the state over, and goes on; the file
is the same in the end as without the interruption. When all is answered, the partial file gets its
final name.
"""

import json
import mmap
import os
import time
from array import array
from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from acclimate.adapt.folder import COLUMNS, Answer, as_row, row_of
from acclimate.adapt.folder_run import FolderRun
from acclimate.adapt.state import AdapterState
from acclimate.errors import InputError, Interrupted
from acclimate.runtime.signals import stop_requests
from acclimate.storage import atomic, sealed, targets

_SECONDS = 30.0
_SHARE = 0.05
_EXAMPLES = 20


@dataclass
class Tally:
    """How many images were answered so far."""

    answered: int = 0
    changed: int = 0
    """Number of answers that differ from the frozen classifier's."""
    skipped: int = 0
    examples: list[list[str]] = field(default_factory=list)
    """Path and reason of the first images that were skipped."""

    def add(self, answer: Answer) -> None:
        """Count an answer."""
        self.changed += answer.prediction != answer.frozen_prediction
        if not answer.skipped:
            self.answered += 1
            return
        self.skipped += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append([answer.path, answer.skipped])


class AnswersFile:
    """A CSV file of answers, which keeps what is there when the run is interrupted.

    ```python
    with AnswersFile(Path("predictions.csv")) as file:
        for answer in adapt_folder(bundle, Path("photos"), checkpoints=file):
            file.write(answer)
        file.finish()
    ```

    A pipe or a device is written straight, and nothing is kept.

    Args:
        out: The file.
        tell: Told in a sentence where the run begins, if that is not at the first image.
        started: Called with the run before its first batch.

    Raises:
        InputError: another run is writing the file, the partial file is that of another run, or
            it cannot be written.
    """

    def __init__(
        self,
        out: Path,
        *,
        tell: Callable[[str], object] = lambda sentence: None,
        started: Callable[[FolderRun], object] = lambda run: None,
    ):
        self.out = out
        self.tally = Tally()
        self._tell, self._started = tell, started
        self._contexts = ExitStack()
        self._straight = targets.is_straight(out)
        target = out if self._straight else Path(os.path.realpath(out))
        self._target = target
        self._partial = target.with_name(f"{target.name}.partial")
        self._state = target.with_name(f"{target.name}.partial.state")
        self._file: BinaryIO | None = None
        self._run: FolderRun | None = None
        self._kept = self._done = 0
        self._asked: Callable[[], int] = lambda: 0
        self._saved_at = self._saving_took = 0.0

    def __enter__(self) -> "AnswersFile":
        targets.check_writable(self.out)
        if not self._straight:
            targets.check_writable(self._partial)
            targets.check_writable(self._state)
            descriptor = self._contexts.enter_context(
                atomic.locked(self._partial, self._open_partial, name=self.out)
            )
            self._file = self._contexts.enter_context(os.fdopen(os.dup(descriptor), "r+b"))
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if not self._straight:
                self._remove_worthless(kind)
        finally:
            # After a failed write, closing fails again; the first error is the one to tell.
            with suppress(OSError) if kind else nullcontext():
                self._contexts.close()

    def begin(self, run: FolderRun) -> int:
        """Open the file; go on with the answers of the same run, if there are some.

        Returns:
            The number of items that are done.
        """
        if self._straight:
            self._written(self._begin_straight)
            self._run = run
        else:
            self._identity = json.loads(json.dumps(run.identity()))
            resumed = self._resume(run)
            if not resumed:
                self._check_partial()
            self._run = run  # from here on the partial file is ours
            if not resumed:
                self._written(self._begin_anew)
                self._save()
        if not self._straight:  # to a pipe nothing is kept, and writing may wait for its reader
            self._asked = self._contexts.enter_context(stop_requests(self._interrupted))
        self._started(run)
        return self._done

    def write(self, answer: Answer) -> None:
        """Add an answer."""
        self.tally.add(answer)
        self._written(lambda: self._open_file.write(row_of(answer)))

    def batch_done(self, done: int) -> None:
        """Keep the answers so far; after Ctrl-C or SIGTERM, stop here."""
        self._done = done
        self._written(self._open_file.flush)
        number = self._asked()
        pause = max(_SECONDS, self._saving_took / _SHARE)
        if not self._straight and (number or time.monotonic() - self._saved_at > pause):
            self._save()
        if number:
            raise self._interrupted(number)

    def finish(self) -> None:
        """Give the complete file its name, with the answers in natural path order."""
        if self._run is None or self._straight:
            return
        self._written(self._open_file.flush)
        if self._run.order is not None:
            starts = _starts(self._partial)
            places = self._run.order.argsort().tolist()
            atomic.write_atomically(
                self._target, lambda temporary: _reorder(self._partial, starts, places, temporary)
            )
            self._partial.unlink()
        else:
            self._written(lambda: atomic.replace(self._partial, self._target))
        self._state.unlink(missing_ok=True)

    @property
    def _open_file(self) -> BinaryIO:
        assert self._file is not None
        return self._file

    def _open_partial(self) -> int:
        self._partial.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o666)

    def _begin_straight(self) -> None:
        self._file = self._contexts.enter_context(targets.straight(self.out))
        self._file.write(as_row(COLUMNS))

    def _begin_anew(self) -> None:
        self._open_file.seek(0)
        self._open_file.truncate()
        self._open_file.write(as_row(COLUMNS))

    def _resume(self, run: FolderRun) -> bool:
        """Take over the state of an interrupted run; False if there is none."""
        if not self._state.exists() or not self._partial.stat().st_size:
            return False
        tensors, record = sealed.load(self._state)
        mine = self._identity
        if other := [name for name in mine if record["identity"].get(name) != mine[name]]:
            raise InputError(
                f"{self._partial} holds the answers of a run with other {', '.join(other)}; choose "
                f"another --out, or delete it to begin anew."
            )
        if self._partial.stat().st_size < record["bytes"]:
            return False
        run.learning.restore(AdapterState(tensors, record["belongs"]))
        self._open_file.truncate(record["bytes"])
        self._open_file.seek(0, os.SEEK_END)
        self.tally: Tally = Tally(**record["tally"])
        self._kept = self._done = record["done"]
        self._saved_at = time.monotonic()
        if self._done:
            self._tell(
                f"going on after the first {self._done:,} of {len(run.found.items):,} images"
            )
        return True

    def _check_partial(self) -> None:
        """Refuse to begin anew over a file that is none of ours."""
        header = as_row(COLUMNS)
        beginning = self._open_file.read(len(header))
        if beginning and beginning != header:
            raise InputError(
                f"{self._partial} is something else, and would be overwritten; move it away."
            )
        if self._partial.stat().st_size > len(header):
            self._tell(f"{self._partial} has no complete state beside it: all images are answered")

    def _save(self) -> None:
        """Write the state, after the answers that it follows are on disk."""
        assert self._run is not None
        begun = time.monotonic()
        self._written(lambda: (self._open_file.flush(), os.fsync(self._open_file.fileno())))
        state = self._run.learning.snapshot()
        record = {
            "belongs": state.belongs,
            "identity": self._identity,
            "done": self._done,
            "bytes": self._open_file.tell(),
            "tally": asdict(self.tally),
        }
        sealed.save(self._state, state.tensors, record)
        self._kept, self._saved_at = self._done, time.monotonic()
        self._saving_took = self._saved_at - begun

    def _interrupted(self, number: int) -> Interrupted:
        assert self._run is not None
        total = len(self._run.found.items)
        return Interrupted(
            f"{self._kept:,} of {total:,} images are done, in {self._partial}; run the same "
            "command again to go on",
            number,
        )

    def _written(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            raise targets.cannot_write(self.out, error) from error

    def _remove_worthless(self, kind: type[BaseException] | None) -> None:
        """Leave no empty partial file, and none of a run of which no image could be answered."""
        failed = self._run is not None and kind is InputError and not self.tally.answered
        if failed or (self._partial.exists() and not self._partial.stat().st_size):
            self._partial.unlink(missing_ok=True)
            self._state.unlink(missing_ok=True)


def _starts(path: Path) -> array:
    """Where each line of a CSV file begins, without its header, and where the last one ends."""
    starts, place, quoted = array("q"), 0, False
    with path.open("rb") as file:
        for line in file:
            if not quoted:
                starts.append(place)
            quoted ^= line.count(b'"') % 2 == 1  # a name may hold the end of a line
            place += len(line)
    starts.append(place)
    return starts[1:]


def _reorder(partial: Path, starts: array, places: list[int], out: Path) -> None:
    """Write the lines of a CSV file in another order, below the same header."""
    with (
        partial.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as lines,
        out.open("wb") as ordered,
    ):
        ordered.write(lines[: starts[0]])
        ordered.writelines(lines[starts[place] : starts[place + 1]] for place in places)
