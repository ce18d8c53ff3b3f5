"""Helpers of the commands and of the scripts in benchmarks/ and studies/: start, finish, tables."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import Any, NoReturn

import tyro
from rich.console import Console
from rich.table import Table

from acclimate.errors import InputError
from acclimate.runtime import machine
from acclimate.storage.atomic import write_text


def start(main: Callable[[Any], None], options: type) -> None:
    """Parse the options and call ``main``; bad input ends with a one-sentence message."""
    with one_sentence("run the same command again"):
        main(tyro.cli(options))


@contextmanager
def one_sentence(interrupted: str) -> Iterator[None]:
    """Context in which bad input ends the program with a one-sentence message and exit code 2.

    Args:
        interrupted: Advice that is printed after Ctrl-C.
    """
    try:
        yield
    except InputError as error:
        _end(str(error), 2)
    except OSError as error:  # a library could not open a path
        _end(f"{error.strerror or error}: {error.filename}.", 2)
    except KeyboardInterrupt:
        _end(f"interrupted; {interrupted}.", 130)


def finish(result: dict[str, Any], seed: int, out: Path | None) -> None:
    """Print the machine and the versions, and write the result as JSON if ``out`` is given."""
    where = machine.describe() | {"seed": str(seed)}
    print(", ".join(f"{name} {value}" for name, value in where.items()))
    if out:
        write_text(out, json.dumps({**result, "environment": where}, indent=2) + "\n")


def told(options: Any) -> dict[str, Any]:
    """Options as they are recorded with a result: without the paths on this machine."""
    return {
        name: value
        for name, value in asdict(options).items()
        if name not in ("data", "out", "results")
    }


def show_rows(rows: Sequence[Any]) -> None:
    """Print dataclass instances of one type as a table."""
    table = Table(*(field.name for field in fields(rows[0])))
    for row in rows:
        table.add_row(*map(str, astuple(row)))
    Console().print(table)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _end(reason: str, code: int) -> NoReturn:
    console = Console(stderr=True)
    console.print(f"acclimate: {reason}", markup=False, highlight=False, soft_wrap=True)
    raise SystemExit(code) from None
