"""The results of a grid in one SQLite file: a finished task is there whole, or not at all."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from acclimate.errors import InputError
from acclimate.evaluate.cell import Answers, Cell
from acclimate.evaluate.probe import Speed
from acclimate.evaluate.task import Task
from acclimate.files import cannot_write

_SCHEMA = 1
_TABLES = """
CREATE TABLE tasks (
    key TEXT PRIMARY KEY, task TEXT NOT NULL, error TEXT, seconds REAL, source TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE cells (
    key TEXT NOT NULL REFERENCES tasks ON DELETE CASCADE, part INTEGER NOT NULL,
    record TEXT NOT NULL, positions BLOB NOT NULL, numbers BLOB NOT NULL,
    predictions BLOB NOT NULL, confidences BLOB NOT NULL, right BLOB NOT NULL,
    PRIMARY KEY (key, part)
) WITHOUT ROWID;
CREATE TABLE speeds (key TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
"""
_TYPES = {
    "positions": "<i8", "numbers": "<i8", "predictions": "<i8", "confidences": "<f4", "right": "?",
}  # fmt: skip
_SCALARS = [field.name for field in fields(Cell) if field.name != "answers"]


class Store:
    """A grid's results.

    One process at a time may write (see `acclimate.files.only_writer`); others may read meanwhile.

    Args:
        path: The file; made if it is not there.

    Raises:
        InputError: it is something else, damaged, from a newer version, or cannot be made.
    """

    def __init__(self, path: Path):
        self.path = path
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, isolation_level=None)
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = FULL")
            self._base.execute("PRAGMA foreign_keys = ON")
            version = self._base.execute("PRAGMA user_version").fetchone()[0]
            if not version:
                self._base.executescript(
                    f"BEGIN; {_TABLES} PRAGMA user_version = {_SCHEMA}; COMMIT;"
                )
            elif version > _SCHEMA:
                raise InputError(f"{path} was written by a newer acclimate; upgrade acclimate.")

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *error: object) -> None:
        self._base.close()

    def done(self) -> set[str]:
        """The keys of all tasks that have cells."""
        return {key for (key,) in self._rows("SELECT key FROM tasks WHERE error IS NULL")}

    def add(self, task: Task, cells: Sequence[Cell], source: str) -> None:
        """Keep what a task gave, in place of an error if it had one.

        Args:
            task: What was measured.
            cells: All of its cells, with answers.
            source: The commit that measured it.
        """
        rows = []
        for part, cell in enumerate(cells):
            assert cell.answers is not None
            record = json.dumps({name: getattr(cell, name) for name in _SCALARS})
            blobs = [
                getattr(cell.answers, name).astype(kind).tobytes() for name, kind in _TYPES.items()
            ]
            rows.append((task.key, part, record, *blobs))
        with self._transaction() as base:
            base.execute("DELETE FROM tasks WHERE key = ?", (task.key,))
            seconds = sum({cell.seconds for cell in cells})
            values = (task.key, json.dumps(asdict(task)), None, seconds, source)
            base.execute("INSERT INTO tasks VALUES (?, ?, ?, ?, ?)", values)
            base.executemany("INSERT INTO cells VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def fail(self, task: Task, error: str, source: str) -> None:
        """Keep why a task failed; it is tried again by the next run."""
        with self._transaction() as base:
            values = (task.key, json.dumps(asdict(task)), error, None, source)
            base.execute("INSERT OR REPLACE INTO tasks VALUES (?, ?, ?, ?, ?)", values)

    def cells(self, tasks: Iterable[Task] | None = None, *, answers: bool = True) -> list[Cell]:
        """The cells of tasks that are done, in the tasks' order; without a choice, all."""
        keys = [task.key for task in tasks] if tasks is not None else sorted(self.done())
        columns = "record" + (", " + ", ".join(_TYPES) if answers else "")
        query = f"SELECT {columns} FROM cells WHERE key = ? ORDER BY part"
        return [self._cell(row) for key in keys for row in self._rows(query, (key,))]

    def errors(self) -> list[tuple[str, str]]:
        """Task and reason of all that failed."""
        rows = self._rows("SELECT task, error FROM tasks WHERE error IS NOT NULL ORDER BY key")
        return [(_name(json.loads(task)), error) for task, error in rows]

    def sources(self) -> list[str]:
        """The commits that measured what is here."""
        return [commit for (commit,) in self._rows("SELECT DISTINCT source FROM tasks ORDER BY 1")]

    def speed(self, key: str) -> Speed | None:
        """What was kept under a key of `acclimate.evaluate.probe.speed_key`."""
        found = self._rows("SELECT record FROM speeds WHERE key = ?", (key,))
        return Speed(**json.loads(found[0][0])) if found else None

    def keep_speed(self, key: str, speed: Speed) -> None:
        """Keep how fast a method is here."""
        with self._transaction() as base:
            values = (key, json.dumps(asdict(speed)))
            base.execute("INSERT OR REPLACE INTO speeds VALUES (?, ?)", values)

    def _cell(self, row: Sequence) -> Cell:
        try:
            record = json.loads(row[0])
            record["curve"] = tuple(record["curve"])
            arrays = [np.frombuffer(blob, kind) for blob, kind in zip(row[1:], _TYPES.values())]
            return Cell(**record, answers=Answers(*arrays) if arrays else None)
        except (ValueError, TypeError, KeyError) as error:
            raise self._damaged() from error

    def _rows(self, query: str, values: Sequence = ()) -> list[tuple]:
        with self._told():
            return self._base.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._told():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise InputError(f"cannot use {self.path}: {error}; choose another place.") from error
        except sqlite3.DatabaseError as error:
            raise self._damaged() from error
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _damaged(self) -> InputError:
        return InputError(f"{self.path} is damaged; delete it and run the grid again.")


def _name(task: dict) -> str:
    shifts = ", ".join(f"{shift['corruption']} {shift['severity']}" for shift in task["shifts"])
    return f"{task['bundle']} {task['method']} on {shifts}, {task['order']}, seed {task['seed']}"
