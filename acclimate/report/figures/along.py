"""Accuracy along a stream: whether a method that never forgets gets better, or worse."""

from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np
import plotly.graph_objects as go

from acclimate.evaluate.store import Measured
from acclimate.report.figures.style import figure, line, looks
from acclimate.report.measured import RowKey, reported, row_names

_STRETCHES = 10


def along(measured: Sequence[Measured], held_out: Collection[str]) -> go.Figure | None:
    """Accuracy in ten equal stretches of a stream, the mean over streams; no growing noise."""
    if any(each.cell.order == "growing-noise" for each in measured):
        return None
    drawn = _drawn(measured, held_out, last=100.0)
    if drawn is not None:
        drawn.update_xaxes(title="images that have arrived, %")
        drawn.update_traces(hovertemplate="%{y:.1f} % at %{x:.0f} % of the stream")
    return drawn


def growing_noise(measured: Sequence[Measured], held_out: Collection[str]) -> go.Figure | None:
    """Error in ten equal stretches of streams whose noise grows, over the noise's severity."""
    here = [each for each in measured if each.cell.order == "growing-noise"]
    drawn = _drawn(here, held_out, last=5.0)
    if drawn is not None:
        drawn.for_each_trace(lambda trace: trace.update(y=[100 - right for right in trace.y]))
        drawn.update_yaxes(title="error, %")
        drawn.update_xaxes(title="severity of the noise")
        drawn.update_traces(hovertemplate="error %{y:.1f} % at severity %{x:.2f}")
    return drawn


def stretches(measured: Sequence[Measured], held_out: Collection[str]) -> dict[RowKey, list[float]]:
    """Accuracy in percent in ten equal stretches of the streams, all streams of a row together.

    Returns:
        Nothing where a stream is too short, or answers were not kept.
    """
    found: dict[RowKey, list[Measured]] = defaultdict(list)
    for each in reported(measured, held_out):
        if each.cell.answers is not None:
            found[each.row].append(each)
    lengths = _lengths(measured)
    if not found or min(lengths.values()) < 2 * _STRETCHES:
        return {}
    return {row: _accuracies(mine, lengths) for row, mine in found.items()}


def _drawn(
    measured: Sequence[Measured], held_out: Collection[str], *, last: float
) -> go.Figure | None:
    found = stretches(measured, held_out)
    if not found:
        return None
    names = row_names(measured)
    look = looks(names)
    middles = (np.arange(_STRETCHES) + 0.5) * last / _STRETCHES
    traces = [line(names[key], look[key], middles, found[key]) for key in names if key in found]
    drawn = figure(traces, x="", y="accuracy, %", height=400)
    drawn.update_xaxes(range=[0, last])
    return drawn


def _lengths(measured: Sequence[Measured]) -> dict[str, int]:
    """Images of each task's stream, which may have several shifts and a cell for each."""
    lengths: dict[str, int] = defaultdict(int)
    for each in measured:
        lengths[each.task.key] += each.cell.n_images
    return lengths


def _accuracies(streams: Sequence[Measured], lengths: dict[str, int]) -> list[float]:
    """Accuracy in each stretch, all streams' answers together, in percent."""
    right, total = np.zeros(_STRETCHES), np.zeros(_STRETCHES)
    for each in streams:
        answers = each.cell.answers
        assert answers is not None
        stretch = answers.positions * _STRETCHES // lengths[each.task.key]
        right += np.bincount(stretch, weights=answers.right, minlength=_STRETCHES)
        total += np.bincount(stretch, minlength=_STRETCHES)
    return [100 * float(r / t) if t else float("nan") for r, t in zip(right, total)]
