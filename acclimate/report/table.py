"""The table in the terminal."""

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from acclimate.report.comparison import Comparison
from acclimate.report.exports import notes, percent

_STYLES = {"clean": "", "mean": "cyan", "reported": "", "held out": "dim"}


def show_table(
    table: Comparison, console: Console, *, title: str = "Accuracy, %", warnings: Sequence[str] = ()
) -> None:
    """Print accuracies in percent, the best of each column in bold, and what to know about them.

    A row is a variant where that fits the terminal, otherwise a corruption or domain.

    Args:
        table: The table.
        console: Where to print it.
        title: Printed above.
        warnings: Printed below, see `acclimate.report.warnings.warnings_of`.
    """
    texts = np.array(
        [
            [
                percent(score, " ± ") + ("" if score is None or score.comparable else "†")
                for score in row.scores
            ]
            for row in table.rows
        ],
        dtype=object,
    )
    best = np.array(
        [[table.rank(row, place) == 1 for place in range(len(table.columns))] for row in table.rows]
    )
    columns = [
        Text(column.name.replace("_", " "), style=_STYLES[column.kind]) for column in table.columns
    ]
    names = [Text(row.name) for row in table.rows]
    drawn = _table("method", names, columns, texts, best)
    unbounded = console.options.update(width=10_000)
    if console.measure(drawn, options=unbounded).minimum > console.width:
        drawn = _table("corruption", columns, names, texts.T, best.T)
    drawn.title = title
    console.print(drawn)
    for note in notes(table, "†"):
        console.print(note, style="dim", markup=False, highlight=False)
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)


def _table(
    corner: str, rows: Sequence[Text], columns: Sequence[Text], texts: np.ndarray, best: np.ndarray
) -> Table:
    table = Table(padding=(0, 1, 0, 0), title_justify="left", box=None)
    table.add_column(corner, no_wrap=True)
    for column in columns:
        longest_word = max(map(len, column.plain.split()))
        table.add_column(column, justify="right", min_width=max(5, longest_word))
    for name, row, marks in zip(rows, texts, best):
        figures = [
            Text(text, style="bold" if mark else "not bold") for text, mark in zip(row, marks)
        ]
        table.add_row(name, *figures)
    return table
