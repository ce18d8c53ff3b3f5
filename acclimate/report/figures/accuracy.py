"""Accuracy of each method under each corruption."""

from collections.abc import Collection, Sequence
from html import escape

import plotly.graph_objects as go

from acclimate.evaluate.store import Measured
from acclimate.report.comparison import Comparison, compare
from acclimate.report.figures.style import figure, looks, marker


def accuracy(measured: Sequence[Measured], held_out: Collection[str]) -> go.Figure | None:
    """A line for each corruption, a dot for each row; clean images and the mean come first."""
    table = compare(measured, held_out)
    columns = [i for i, column in enumerate(table.columns) if column.kind != "held out"]
    if not columns:
        return None
    drawn = figure(_dots(table, columns), x="accuracy, %", y="", height=120 + 34 * len(columns))
    names = [table.columns[i].name.replace("_", " ") for i in columns]
    drawn.update_yaxes(
        categoryorder="array", categoryarray=names[::-1], title=None, type="category"
    )
    return drawn


def _dots(table: Comparison, columns: Sequence[int]) -> list[go.Scatter]:
    look = looks(row.key for row in table.rows)
    dots = []
    for row in table.rows:
        known = [(i, score) for i in columns if (score := row.scores[i])]
        dots.append(
            go.Scatter(
                x=[100 * score.mean for _, score in known],
                y=[table.columns[i].name.replace("_", " ") for i, _ in known],
                name=escape(row.name),
                mode="markers",
                marker=marker(look[row.key], 9),
                opacity=0.85,
                hovertemplate="%{y}: %{x:.1f} %",
            )
        )
    return dots
