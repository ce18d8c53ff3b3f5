"""``results.csv``: results for other programs, and for a report without a store."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from acclimate.data import CORRUPTIONS
from acclimate.errors import InputError
from acclimate.evaluate.cell import CLEAN, Cell
from acclimate.evaluate.variant import Variant
from acclimate.methods import METHODS
from acclimate.storage.atomic import write_text

_MEASURED = (
    "bundle",
    "dataset",
    "corruption",
    "severity",
    "domain",
    "order",
    "seed",
    "batch",
    "window",
    "accuracy",
    "ece",
    "nll",
    "n_images",
    "steps",
    "forward_equivalents",
    "seconds",
    "images_per_second",
    "peak_memory",
    "refused_steps",
)
"""Fields of `Cell`, with the same meaning and unit."""
COLUMNS = (
    "method", *_MEASURED, "error", "corruption_error", "oracle_accuracy", "oracle_steps", "card",
)  # fmt: skip
"""The columns of ``results.csv``.

``method`` is the variant as `Variant` writes it. ``domain`` is the domain of a published set, and
empty for other images; images of a domain have no corruption and no severity.
``error`` is 1 − accuracy. ``corruption_error`` is the error over that of the frozen classifier of
the same bundle on the same images (Hendrycks and Dietterich 2019, § 4.2, for one severity), in the
same precision if that was measured.
``oracle_accuracy`` is the best accuracy of the curve, chosen by labels, after ``oracle_steps``
steps: no method reaches it, but it says how much the number of steps matters. ``card`` names the
protocol card in the manifest. Empty is unknown.
"""
TIMINGS = ("seconds", "images_per_second", "peak_memory")
"""The columns that differ from one run to the next."""


def write_results(cells: Sequence[Cell], path: Path) -> None:
    """Write one line for each cell as comma-separated values, with a header, atomically.

    Numbers are written in full, so that they read back as the same floats.

    Raises:
        InputError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([row[column] for column in COLUMNS] for row in rows_of(cells))
    write_text(path, text.getvalue())


def read_results(path: Path) -> list[Cell]:
    """The cells of a file that `write_results` wrote, without curves and answers.

    Files of before there were domains, windows and cards, which lack these columns, are read too.

    Raises:
        InputError: the file is missing, or is something else.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
        return [_cell(row) for row in rows]
    except FileNotFoundError as error:
        raise InputError(f"there is no {path}; make it with acclimate bench --out.") from error
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(f"{path} is damaged, or no results of acclimate bench.") from error


def _cell(row: Mapping[str, str]) -> Cell:
    kinds: dict[str, Any] = {field.name: field.type for field in fields(Cell)}
    if (row["severity"] or "").isdecimal():  # the strength of growing noise is always a float
        kinds["severity"] = int
    values = {name: kinds[name](row[name]) for name in (*_MEASURED, "card") if row.get(name)}
    if row.get("domain"):
        values |= {"corruption": "", "severity": 0}
    cell = Cell(variant=Variant.parse(row["method"]), **values)
    if not 0 <= cell.accuracy <= 1:
        raise ValueError(f"an accuracy of {cell.accuracy}")
    return cell


def line_of(cell: Cell) -> tuple[Any, ...]:
    """The place of a cell in a grid's file, whatever was measured first."""
    method = _rank(cell.variant.method, METHODS)
    corruption = _rank(cell.corruption, (CLEAN, *CORRUPTIONS))
    what = (method, str(cell.variant), cell.bundle, cell.dataset, cell.n_images, cell.order)
    return (*what, corruption, cell.severity, cell.domain, cell.seed, cell.batch, cell.window)


def _rank(name: str, known: Iterable[str]) -> tuple[int, str]:
    """A key that sorts known names in their order, and names of other programs after them."""
    names = list(known)
    return (names.index(name) if name in names else len(names), name)


def rows_of(cells: Sequence[Cell]) -> Iterator[dict[str, object]]:
    """The lines of the file, by `COLUMNS`."""
    frozen = {
        (_place(cell), cell.variant): 1 - cell.accuracy
        for cell in cells
        if cell.variant == cell.variant.frozen
    }
    for cell in cells:
        row: dict[str, object] = {name: getattr(cell, name) for name in _MEASURED}
        row |= {"method": str(cell.variant), "card": cell.card}
        if cell.domain:
            row["severity"] = ""
        row["error"] = 1 - cell.accuracy
        row["corruption_error"] = row["oracle_accuracy"] = row["oracle_steps"] = ""
        if cell.forward_equivalents != cell.forward_equivalents:
            row["forward_equivalents"] = ""
        known = frozen.get((_place(cell), cell.variant.frozen))
        known = known or frozen.get((_place(cell), Variant("source")))
        if known:
            row["corruption_error"] = (1 - cell.accuracy) / known
        if cell.curve:
            row["oracle_accuracy"] = max(cell.curve)
            row["oracle_steps"] = cell.curve.index(max(cell.curve))
        yield row


def _place(cell: Cell) -> tuple:
    shift = (cell.corruption, cell.severity, cell.domain)
    return (cell.bundle, cell.dataset, cell.n_images, *shift, cell.order, cell.seed)
