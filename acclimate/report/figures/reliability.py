"""Whether confidence is deserved."""

from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np
import plotly.graph_objects as go

from acclimate.evaluate.store import Measured
from acclimate.report.figures.style import figure, line, looks
from acclimate.report.measured import RowKey, reported, row_names

_BINS = 10
FEWEST = 20
"""Answers that a bin needs to be drawn."""


def reliability(measured: Sequence[Measured], held_out: Collection[str]) -> go.Figure | None:
    """Mean confidence against accuracy, the corruptions' answers together in ten equal bins."""
    found: dict[RowKey, list[Measured]] = defaultdict(list)
    for each in reported(measured, held_out):
        if each.cell.answers is not None:
            found[each.row].append(each)
    names = row_names(measured)
    look = looks(names)
    points = {key: _points(found[key]) for key in names if key in found}
    traces = [line(names[key], look[key], *xy) for key, xy in points.items() if xy[0]]
    if not traces:
        return None
    even = go.Scatter(
        x=[0, 100],
        y=[0, 100],
        mode="lines",
        line={"color": "#8c8c8c", "dash": "dot", "width": 1},
        hoverinfo="skip",
        showlegend=False,
    )
    drawn = figure([even, *traces], x="confidence, %", y="accuracy, %", height=440)
    drawn.update_traces(hovertemplate="%{y:.1f} % right at %{x:.1f} % confidence")
    drawn.update_xaxes(range=[0, 102])
    drawn.update_yaxes(range=[0, 102], tickvals=[20, 40, 60, 80, 100])
    return drawn


def _points(measured: Sequence[Measured]) -> tuple[list[float], list[float]]:
    """Mean confidence and accuracy of each bin that has answers enough, in percent."""
    answers = [each.cell.answers for each in measured if each.cell.answers is not None]
    confidence = np.concatenate([each.confidences for each in answers]).astype(np.float64)
    right = np.concatenate([each.right for each in answers])
    bins = np.clip(np.ceil(confidence * _BINS).astype(int) - 1, 0, _BINS - 1)
    count = np.bincount(bins, minlength=_BINS)
    full = count >= FEWEST
    sums = [np.bincount(bins, weights=values, minlength=_BINS) for values in (confidence, right)]
    x, y = (100 * values[full] / count[full] for values in sums)
    return x.tolist(), y.tolist()
