"""Accuracy against its cost."""

from collections.abc import Collection, Sequence
from html import escape

import plotly.graph_objects as go

from acclimate.evaluate.store import Measured
from acclimate.report.comparison import compare
from acclimate.report.figures.style import figure, looks, marker


def cost(measured: Sequence[Measured], held_out: Collection[str]) -> go.Figure | None:
    """Forward passes an image against the mean accuracy; hollow where it is of other images."""
    table = compare(measured, held_out)
    look = looks(row.key for row in table.rows)
    traces = []
    for row in table.rows:
        mean = table.score(row, "mean")
        if mean is None or row.cost is None:
            continue
        hollow = "" if mean.comparable else "-open"
        traces.append(
            go.Scatter(
                x=[row.cost],
                y=[100 * mean.mean],
                name=escape(row.name),
                mode="markers",
                marker={**marker(look[row.key], 12), "symbol": look[row.key]["symbol"] + hollow},
                hovertemplate="%{x:.1f} forward passes, %{y:.1f} %",
            )
        )
    if not traces:
        return None
    drawn = figure(traces, x="forward passes an image", y="mean accuracy, %", height=420)
    drawn.update_xaxes(type="log", dtick="D2" if max(t.x[0] for t in traces) < 100 else 1)
    return drawn
