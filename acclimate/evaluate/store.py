"""The results of a grid in one SQLite file: a finished task is there whole, or not at all."""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from acclimate.errors import InputError
from acclimate.evaluate.cell import Answers, Cell
from acclimate.evaluate.speed import Speed
from acclimate.evaluate.task import Task, key_of
from acclimate.evaluate.variant import Variant
from acclimate.storage.atomic import cannot_write

_SCHEMA = 2
_TABLES = """
CREATE TABLE tasks (
    key TEXT PRIMARY KEY, task TEXT NOT NULL, error TEXT, checksum TEXT, source TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE cells (
    key TEXT NOT NULL REFERENCES tasks ON DELETE CASCADE, part INTEGER NOT NULL,
    record TEXT NOT NULL, positions BLOB NOT NULL, numbers BLOB NOT NULL,
    predictions BLOB NOT NULL, confidences BLOB NOT NULL, right BLOB NOT NULL,
    PRIMARY KEY (key, part)
) WITHOUT ROWID;
CREATE TABLE speeds (key TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
"""
_APPLICATION = 0x41434C4D  # "ACLM"
_TYPES = {
    "positions": "<i8", "numbers": "<i8", "predictions": "<i8", "confidences": "<f4", "right": "?",
}  # fmt: skip
_APART = ("variant", "answers", "card")
"""Fields of a cell that its record has in another form; the card follows from the task."""
_SCALARS = [field.name for field in fields(Cell) if field.name not in _APART]


class Measured(NamedTuple):
    """A cell, and the task that it was measured for."""

    task: Task
    cell: Cell

    def __repr__(self) -> str:
        return f"Measured({self.cell!r})"

    @property
    def row(self) -> tuple[str, Variant]:
        """Bundle and variant: the row of a table that the cell stands in."""
        return self.cell.bundle, self.cell.variant


class Store:
    """The results of a grid.

    ```python
    with Store(Path("grid/cells.sqlite")) as store:
        cells = store.cells()
    ```

    One process at a time may write (see `acclimate.storage.atomic.only_writer`); others may read
    meanwhile. SQLite does not notice every changed byte, so a task has a checksum over its cells'
    records, and each record has one over its answers: a changed file is never read as a result.

    Args:
        path: The file; made if it is not there.

    Raises:
        InputError: the file is something else, damaged, of another version, or cannot be made.
    """

    def __init__(self, path: Path):
        self.path = path
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, isolation_level=None)
        try:
            self._open()
        except BaseException:
            self._base.close()
            raise

    def _open(self) -> None:
        if not self._rows("SELECT 1 FROM sqlite_schema"):  # a new file
            with self._told():
                self._base.executescript(
                    f"BEGIN IMMEDIATE; {_TABLES} PRAGMA application_id = {_APPLICATION};"
                    f"PRAGMA user_version = {_SCHEMA}; COMMIT;"
                )
        ((application,), (version,)) = (
            self._rows(f"PRAGMA {name}")[0] for name in ("application_id", "user_version")
        )
        if application != _APPLICATION:
            raise InputError(f"{self.path} holds something else; choose another place.")
        if version < _SCHEMA:
            raise InputError(
                f"{self.path} was written by an older acclimate; run the grid into a new folder, "
                "or keep only results.csv and manifest.json of this one to report them."
            )
        if version > _SCHEMA:
            raise InputError(f"{self.path} was written by a newer acclimate; upgrade acclimate.")
        for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._rows(f"PRAGMA {setting}")

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *error: object) -> None:
        self._base.close()

    def done(self) -> set[str]:
        """The keys of all tasks that have cells."""
        return {key for (key,) in self._rows("SELECT key FROM tasks WHERE error IS NULL")}

    def tasks(self) -> list[Task]:
        """All tasks that have cells, but for those of a version with other settings."""
        rows = self._rows("SELECT key, task FROM tasks WHERE error IS NULL ORDER BY key")
        with self._told():
            tasks = {key: Task.of_record(json.loads(text)) for key, text in rows}
            if any(key_of(text) != key for key, text in rows):
                raise self._damaged()
        return [task for key, task in tasks.items() if task.key == key]

    def add(self, task: Task, cells: Sequence[Cell], source: str) -> None:
        """Keep the cells of a task, in place of an error if it had one.

        Args:
            task: The task that was measured.
            cells: All its cells, with answers.
            source: The commit that measured it.
        """
        rows = [(task.key, part, *_row(cell)) for part, cell in enumerate(cells)]
        checksum = _checksum(record.encode() for _, _, record, *_ in rows)
        with self._transaction() as base:
            base.execute("DELETE FROM tasks WHERE key = ?", (task.key,))
            values = (task.key, json.dumps(task.record()), None, checksum, source)
            base.execute("INSERT INTO tasks VALUES (?, ?, ?, ?, ?)", values)
            base.executemany("INSERT INTO cells VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def fail(self, task: Task, error: str, source: str) -> None:
        """Keep why a task failed; it is tried again by the next run."""
        error = error.encode("utf-8", "backslashreplace").decode("utf-8")  # SQLite takes no other
        with self._transaction() as base:
            values = (task.key, json.dumps(task.record()), error, None, source)
            base.execute("INSERT OR REPLACE INTO tasks VALUES (?, ?, ?, ?, ?)", values)

    def cells(self, tasks: Iterable[Task] | None = None, *, answers: bool = True) -> list[Cell]:
        """The cells of those tasks that are done, in the tasks' order; without a choice, all.

        Args:
            tasks: The chosen tasks.
            answers: Whether the answers to each image are read too.

        Raises:
            InputError: something was changed since it was written.
        """
        done = self.done()
        with self._told():  # a damaged file may hold values of any type
            keys = sorted(done) if tasks is None else [t.key for t in tasks if t.key in done]
            return [cell for key in keys for cell in self._cells(key, answers)]

    def measured(self, tasks: Iterable[Task], *, answers: bool = True) -> list[Measured]:
        """The cells of those tasks that are done, each beside its task."""
        done = self.done()
        with self._told():
            return [
                Measured(task, cell)
                for task in tasks
                if task.key in done
                for cell in self._cells(task.key, answers)
            ]

    def errors(self, tasks: Iterable[Task] | None = None) -> list[tuple[str, str]]:
        """Name and reason of each task that failed; without a choice, of all."""
        rows = self._rows("SELECT key, task, error FROM tasks WHERE error IS NOT NULL ORDER BY key")
        keys = None if tasks is None else {task.key for task in tasks}
        with self._told():
            return [
                (_name(json.loads(task)), error)
                for key, task, error in rows
                if keys is None or key in keys
            ]

    def sources(self) -> list[str]:
        """The commits that measured the cells."""
        return [commit for (commit,) in self._rows("SELECT DISTINCT source FROM tasks ORDER BY 1")]

    def commits(self) -> dict[str, str]:
        """The commit that measured each task that has cells, by the task's key."""
        return dict(self._rows("SELECT key, source FROM tasks WHERE error IS NULL"))

    def speed(self, key: str) -> Speed | None:
        """The speed that was kept under a key of `acclimate.evaluate.speed.speed_key`."""
        found = self._rows("SELECT record FROM speeds WHERE key = ?", (key,))
        with self._told():
            return Speed(**json.loads(found[0][0])) if found else None

    def keep_speed(self, key: str, speed: Speed) -> None:
        """Keep the speed of a variant."""
        with self._transaction() as base:
            values = (key, json.dumps(asdict(speed)))
            base.execute("INSERT OR REPLACE INTO speeds VALUES (?, ?)", values)

    def _cells(self, key: str, answers: bool) -> list[Cell]:
        """The cells of a task, verified."""
        columns = ", ".join(("record", *_TYPES) if answers else ("record",))
        rows = self._rows(f"SELECT {columns} FROM cells WHERE key = ? ORDER BY part", (key,))
        expected = self._rows("SELECT checksum FROM tasks WHERE key = ?", (key,))
        if expected != [(_checksum(str(record).encode() for record, *_ in rows),)]:
            raise self._damaged()
        cells = []
        for text, *blobs in rows:
            record = json.loads(text)
            checksum = record.pop("answers")
            if blobs and checksum != _checksum(blobs):
                raise self._damaged()
            arrays = [np.frombuffer(blob, kind) for blob, kind in zip(blobs, _TYPES.values())]
            record |= {"curve": tuple(record["curve"])}
            record["variant"] = Variant.parse(record["variant"])
            cells.append(Cell(**record, answers=Answers(*arrays) if arrays else None))
        return cells

    def _rows(self, query: str, values: Sequence = ()) -> list[tuple]:
        with self._told():
            return self._base.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._told():
            self._base.execute("BEGIN IMMEDIATE")
            with self._base:  # commits, or after an error goes back
                yield self._base

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except sqlite3.OperationalError as error:
            raise InputError(f"cannot use {self.path}: {error}; choose another place.") from error
        except (sqlite3.DatabaseError, ValueError, TypeError, KeyError) as error:
            raise self._damaged() from error
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _damaged(self) -> InputError:
        return InputError(f"{self.path} is damaged; delete it and run the grid again.")


def _row(cell: Cell) -> tuple[str, *tuple[bytes, ...]]:
    """The record of a cell, and its answers."""
    assert cell.answers is not None
    blobs = [getattr(cell.answers, name).astype(kind).tobytes() for name, kind in _TYPES.items()]
    record = {name: getattr(cell, name) for name in _SCALARS}
    record |= {"variant": str(cell.variant), "answers": _checksum(blobs)}
    return json.dumps(record), *blobs


def _checksum(parts: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()


def _name(task: dict) -> str:
    shifts = ", ".join(
        shift["domain"] or f"{shift['corruption']} {shift['severity']}" for shift in task["shifts"]
    )
    return f"{task['bundle']} {task['variant']} on {shifts}, {task['order']}, seed {task['seed']}"
