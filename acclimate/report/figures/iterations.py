"""Accuracy after each gradient step."""

import math
from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np
import plotly.graph_objects as go

from acclimate.evaluate.store import Measured
from acclimate.report.figures.style import figure, line, looks
from acclimate.report.measured import RowKey, reported, row_names


def iterations(measured: Sequence[Measured], held_out: Collection[str]) -> go.Figure | None:
    """The mean over the reported corruptions."""
    return _curves(measured, reported(measured, held_out), height=420)


def iterations_of(
    condition: str, measured: Sequence[Measured], held_out: Collection[str]
) -> go.Figure | None:
    """One corruption or domain, small, and without the names of its axes and methods."""
    here = [m for m in reported(measured, held_out) if m.cell.condition == condition]
    drawn = _curves(measured, here, height=190)
    if drawn is not None:
        drawn.update_traces(marker_size=4, showlegend=False)
        drawn.update_xaxes(title=None)
        drawn.update_yaxes(title=None, nticks=5)
    return drawn


def _curves(
    everything: Sequence[Measured], shown: Sequence[Measured], *, height: int
) -> go.Figure | None:
    curves: dict[RowKey, list[tuple[float, ...]]] = defaultdict(list)
    for each in shown:
        if len(each.cell.curve) > 1:
            curves[each.row].append(each.cell.curve)
    if not curves:
        return None
    names = row_names(everything)
    look = looks(names)
    means = {key: 100 * np.mean(curves[key], axis=0) for key in names if key in curves}
    traces = [line(names[k], look[k], range(len(y)), y) for k, y in means.items()]
    drawn = figure(traces, x="gradient steps", y="accuracy, %", height=height)
    last = max(map(len, means.values())) - 1
    drawn.update_xaxes(range=[-0.04 * last, 1.04 * last], tick0=0, dtick=math.ceil(last / 5))
    # Fractions of a point are noise: do not let the scale magnify them.
    low, high = (f(f(y) for y in means.values()) for f in (min, max))
    margin = max(0.05 * (high - low), (2 - (high - low)) / 2)
    drawn.update_yaxes(range=[low - margin, high + margin])
    return drawn
