"""Helpers for scripts in benchmarks/ and studies/: parse options, report errors, write results."""

import csv
import io
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import Any, NoReturn

import tyro
from rich.console import Console
from rich.table import Table

from acclimate.commands.common import check_named
from acclimate.errors import InputError, Interrupted
from acclimate.storage.atomic import write_text
from acclimate.storage.targets import check_writable

LESS_MEMORY = "smaller batches or images, or a --memory-limit that the machine can hold"
"""What to do where memory ran out."""


def start(main: Callable[[Any], None], options: type) -> None:
    """Parse the options and call ``main``. Invalid input ends the program with one sentence.

    It is checked at once whether the paths of the options ``out`` and ``results`` can be written.
    """
    with exit_on_error("run the same command again"):
        given = tyro.cli(options)
        for name in ("out", "results"):
            if path := getattr(given, name, None):
                check_named(path, f"--{name}")
                check_writable(path)
        main(given)


@contextmanager
def exit_on_error(after_interrupt: str) -> Iterator[None]:
    """Context in which invalid input, or too little memory, ends the program with one sentence.

    The exit code is 2.

    What an output's encoding lacks, such as a file name that is no UTF-8, is printed escaped.

    Args:
        after_interrupt: Advice to print after Ctrl-C.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    except InputError as error:
        _exit(str(error), 2)
    except (MemoryError, RuntimeError) as error:
        from acclimate.runtime.budget import out_of_memory

        if not out_of_memory(error):
            raise
        _exit(f"{_ran_out(error)}; {after_interrupt}, with {LESS_MEMORY}.", 2)
    except BrokenPipeError:  # who read the output has seen enough, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left goes nowhere
        raise SystemExit(128 + signal.SIGPIPE) from None
    except OSError as error:  # a library could not open a path
        _exit(f"{error.strerror or error}: {error.filename}.", 2)
    except Interrupted as error:
        _exit(f"interrupted; {error}.", 128 + error.signal)
    except KeyboardInterrupt:
        _exit(f"interrupted; {after_interrupt}.", 130)


@contextmanager
def shown_messages() -> Iterator[None]:
    """Context in which what the package says of its work appears on standard error."""
    logger = logging.getLogger("acclimate")
    handler, level = _Messages(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def finish(result: dict[str, Any], seed: int, out: Path | None) -> None:
    """Print the machine and the versions, and write the result as JSON if ``out`` is given."""
    from acclimate.runtime import machine

    environment = machine.describe() | {"seed": str(seed)}
    print(", ".join(f"{name} {value}" for name, value in environment.items()))
    if out:
        write_text(out, json.dumps({**result, "environment": environment}, indent=2) + "\n")


def recorded_options(options: Any) -> dict[str, Any]:
    """Options to record with a result, as JSON values: of paths the names of their last parts.

    Those of data, output and results are left out.
    """
    return {
        name: _without_folders(value)
        for name, value in asdict(options).items()
        if name not in ("data", "out", "results")
    }


def _without_folders(value: Any) -> Any:
    if isinstance(value, Path):
        return value.absolute().name
    if isinstance(value, dict):
        return {name: _without_folders(each) for name, each in value.items()}
    return [_without_folders(each) for each in value] if isinstance(value, tuple | list) else value


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


class _Messages(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        console = Console(stderr=True)
        console.print(record.getMessage(), markup=False, highlight=False, soft_wrap=True)


def _ran_out(error: BaseException) -> str:
    """What there was too little memory for, where the error says it."""
    from acclimate.runtime.budget import show_bytes

    wanted = re.search(r"allocate (\d+) bytes|allocate ([\d.]+ [KMGT]i?B)", str(error))
    if wanted is None:
        return "memory ran out"
    return f"memory ran out at {wanted[2] or show_bytes(int(wanted[1]))} more"


def _exit(reason: str, code: int) -> NoReturn:
    console = Console(stderr=True)
    console.print(f"acclimate: {reason}", markup=False, highlight=False, soft_wrap=True)
    raise SystemExit(code) from None
