"""From cells to the table that people read, and to what each part of a method adds."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int64

from acclimate.errors import InputError
from acclimate.evaluate.cell import Cell
from acclimate.report.intervals import paired_interval

CLEAN = "none"
"""What a cell of clean images has as its corruption."""

GRADIENT_STEPS = "gradient steps"

_PARTS = (
    ("batch statistics alone", "ptbn", "source"),
    ("alignment and batch statistics", "aligned-bn", "source"),
    (GRADIENT_STEPS, "cta", "cta-lr0"),
)


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    name: str
    """As it is shown: ``"clean"``, ``"mean"``, or the corruption's name."""
    kind: Literal["clean", "mean", "reported", "held out"]
    """Held out: a corruption kept apart for choosing settings; no part of the mean."""

    @property
    def corruption(self) -> str:
        """What its cells have as their corruption."""
        return CLEAN if self.kind == "clean" else self.name


@dataclass(frozen=True, eq=False)
class Summary:
    """Accuracy of each method on each corruption."""

    methods: tuple[str, ...]
    columns: tuple[Column, ...]
    accuracy: Float[np.ndarray, "methods columns"]
    """Fractions; nan where something was not measured."""

    def value(self, method: str, column: str) -> float:
        """The accuracy of a method in a column, nan if the table has no such place."""
        names = [known.name for known in self.columns]
        if method not in self.methods or column not in names:
            return float("nan")
        return float(self.accuracy[self.methods.index(method), names.index(column)])

    def best(self) -> Bool[np.ndarray, "methods columns"]:
        """The best of each column; all of them where they are shown as the same figure."""
        shown = np.round(100 * self.accuracy, 1)
        return shown == np.fmax.reduce(shown, axis=0)

    def texts(self) -> list[list[str]]:
        """The accuracies in percent with one decimal, a list a method."""
        return [["–" if np.isnan(x) else f"{100 * x:.1f}" for x in row] for row in self.accuracy]


@dataclass(frozen=True)
class Gain:
    """What one part of a method adds to the accuracy."""

    label: str
    difference: float
    """Mean over the reported corruptions, a fraction."""
    low: float
    high: float
    """The limits of its 95 % interval."""


def summarise(
    cells: Sequence[Cell], methods_order: Sequence[str], held_out: Collection[str] = ()
) -> Summary:
    """The table of a grid: a row a method, and clean, the mean, and each corruption as columns.

    Several seeds or severities of a place are averaged. The mean is over the reported
    corruptions: not over clean images, nor over ``held_out``. A method that lacks one of them
    has no mean, since means over different corruptions do not compare.

    Args:
        cells: What was measured, all on one data set and in one order of arrival.
        methods_order: The rows; methods without cells are left out.
        held_out: Corruptions kept apart for choosing settings.

    Raises:
        InputError: none of the methods has cells, or the cells are of several data sets or orders.
    """
    methods = tuple(m for m in methods_order if any(cell.method == m for cell in cells))
    cells = [cell for cell in cells if cell.method in methods]
    _require_one_protocol(cells)
    places = defaultdict(list)
    for cell in cells:
        places[cell.method, cell.corruption].append(cell.accuracy)
    columns, corruptions = _columns(cells, held_out)
    measured = {place: float(np.mean(values)) for place, values in places.items()}
    accuracy = np.array([[measured.get((m, c), np.nan) for c in corruptions] for m in methods])
    if "mean" in [column.kind for column in columns]:
        mean = [column.kind for column in columns].index("mean")
        reported = [column.kind == "reported" for column in columns]
        accuracy[:, mean] = accuracy[:, reported].mean(axis=1)
    return Summary(methods, columns, accuracy)


def gains_of(cells: Sequence[Cell], *, held_out: Collection[str]) -> tuple[Gain, ...]:
    """What batch statistics, alignment and gradient steps add, with paired intervals.

    A part is left out if one of its two methods was not measured. See `paired_interval`.

    Args:
        cells: What was measured, with answers.
        held_out: Corruptions kept apart for choosing settings; they do not count here.

    Raises:
        ValueError: two methods answered for other images of a stream.
    """
    found = defaultdict(dict)
    for cell in reported_cells(cells, held_out):
        stream = (cell.dataset, cell.corruption, cell.severity, cell.order, cell.seed)
        found[cell.method][stream] = cell
    gains = []
    for label, method, base in _PARTS:
        streams = [stream for stream in found[method] if stream in found[base]]
        if streams:
            pairs = [paired(found[method][stream], found[base][stream]) for stream in streams]
            first, second, images = (np.concatenate(arrays) for arrays in zip(*pairs))
            gains.append(Gain(label, *paired_interval(first, second, groups=images)))
    return tuple(gains)


def paired(
    first: Cell, second: Cell
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Whether each of two methods was right on an image, and the images' numbers, in order.

    Raises:
        ValueError: they answered for other images.
    """
    one, other = first.answers, second.answers
    assert one is not None and other is not None
    # Of an image that came several times, as in a recurring stream, each time pairs with its own.
    rows, others = (answers.numbers.argsort(kind="stable") for answers in (one, other))
    numbers = one.numbers[rows]
    if not np.array_equal(numbers, other.numbers[others]):
        raise ValueError(
            f"{first.method} and {second.method} answered for other images under "
            f"{first.corruption}: {len(rows)} and {len(others)}."
        )
    return one.right[rows], other.right[others], numbers


def reported_cells(cells: Sequence[Cell], held_out: Collection[str]) -> list[Cell]:
    """The cells that count for a mean: corrupted, and not used to choose settings."""
    return [c for c in cells if c.corruption != CLEAN and c.corruption not in held_out]


def _columns(
    cells: Sequence[Cell], held_out: Collection[str]
) -> tuple[tuple[Column, ...], list[str | None]]:
    """The columns, and beside each the corruption that its cells have (the mean has none)."""
    seen = list(dict.fromkeys(cell.corruption for cell in cells))
    reported = [c for c in seen if c != CLEAN and c not in held_out]
    chosen_on = [c for c in seen if c in held_out]
    columns: list[tuple[Column, str | None]] = []
    if CLEAN in seen:
        columns.append((Column("clean", "clean"), CLEAN))
    if reported:
        columns.append((Column("mean", "mean"), None))
    columns += [(Column(c, "reported"), c) for c in reported]
    columns += [(Column(c, "held out"), c) for c in chosen_on]
    return tuple(column for column, _ in columns), [corruption for _, corruption in columns]


def _require_one_protocol(cells: Sequence[Cell]) -> None:
    if not cells:
        raise InputError("there are no results to report; run the evaluation first.")
    for what, found in (
        ("data sets", {cell.dataset for cell in cells}),
        ("orders", {cell.order for cell in cells}),
    ):
        if len(found) > 1:
            raise InputError(
                f"results of several {what} ({', '.join(sorted(found))}) do not share a table; "
                "report each alone."
            )
