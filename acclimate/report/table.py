"""The results in the terminal."""

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from acclimate.report.summary import Summary

_STYLES = {"clean": "", "mean": "cyan", "reported": "", "held out": "dim"}


def show_table(summary: Summary, console: Console) -> None:
    """Print accuracies in percent, the best of each corruption in bold.

    A row is a method where that fits the terminal, otherwise a corruption.
    """
    texts = np.array(summary.texts(), dtype=object)
    best = summary.best()
    corruptions = [
        Text(column.name.replace("_", " "), style=_STYLES[column.kind])
        for column in summary.columns
    ]
    methods = [Text(method) for method in summary.methods]
    table = _table("method", methods, corruptions, texts, best)
    unbounded = console.options.update(width=10_000)
    if console.measure(table, options=unbounded).minimum > console.width:
        table = _table("corruption", corruptions, methods, texts.T, best.T)
    table.title = "Accuracy, %"
    if any(column.kind == "held out" for column in summary.columns):
        table.caption = "dim: kept apart for choosing settings, not in the mean"
    console.print(table)


def _table(
    corner: str, rows: list[Text], columns: list[Text], texts: np.ndarray, best: np.ndarray
) -> Table:
    table = Table(padding=(0, 1, 0, 0), title_justify="left", caption_justify="left", box=None)
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
