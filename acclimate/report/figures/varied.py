"""Mean accuracy where one thing of the protocol was varied: the size of batches, or the order."""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

import numpy as np
import plotly.graph_objects as go

from acclimate.evaluate.arrival import AS_IT_GOES
from acclimate.evaluate.store import Measured
from acclimate.report.figures.style import figure, line, looks
from acclimate.report.measured import RowKey, reported, row_names, usual_images


def batch_size(measured: Sequence[Measured], held_out: Collection[str]) -> go.Figure | None:
    """Images that arrive together against accuracy."""
    drawn = _varied(
        measured, held_out, lambda each: (each.task.batch, (each.cell.order, each.cell.window))
    )
    if drawn is not None:
        sizes = sorted({each.task.batch for each in measured})
        drawn.update_xaxes(title="images a batch", type="log", tickvals=sizes, ticktext=sizes)
    return drawn


def order(measured: Sequence[Measured], held_out: Collection[str]) -> go.Figure | None:
    """The order in which images arrive against accuracy."""
    drawn = _varied(
        measured, held_out, lambda each: (each.cell.order, (each.task.batch, each.cell.window))
    )
    if drawn is not None:
        drawn.update_traces(mode="markers", marker_size=11)
        drawn.update_xaxes(title="order of arrival", type="category")
    return drawn


def _varied(
    measured: Sequence[Measured],
    held_out: Collection[str],
    split: Callable[[Measured], tuple[object, object]],
) -> go.Figure | None:
    """A curve for each row that has several settings, over what was measured at all of them.

    Args:
        measured: Of any protocols.
        held_out: Corruptions that do not count.
        split: What is varied, and what of the protocol must stay the same.
    """
    alike: dict[object, list[Measured]] = defaultdict(list)
    for each in _of_the_most_images(reported(measured, held_out)):
        alike[each.cell.dataset, split(each)[1]].append(each)
    most = max(alike.values(), key=lambda some: len({split(m)[0] for m in some}), default=[])
    found: dict[RowKey, dict[object, dict[tuple, float]]] = defaultdict(lambda: defaultdict(dict))
    for each in most:
        what = (each.cell.condition, each.cell.severity, each.cell.seed)
        found[each.row][split(each)[0]][what] = each.cell.accuracy
    varied = {key: settings for key, settings in found.items() if len(settings) > 1}
    shared = _shared(varied)
    if not shared:
        return None
    names = row_names(measured)
    look = looks(names)
    traces = [
        line(names[key], look[key], *_means(varied[key], shared), hovertemplate="%{x}: %{y:.1f} %")
        for key in names
        if key in varied
    ]
    return figure(traces, x="", y="mean accuracy, %")


def _of_the_most_images(measured: Sequence[Measured]) -> list[Measured]:
    """Without slow methods' fewer images, and without streams that have no one severity."""
    here = [each for each in measured if each.cell.order not in AS_IT_GOES]
    usual = usual_images(here)
    return [each for each in here if each.task.images == usual[each.cell.condition]]


def _shared(found: dict[RowKey, dict[object, dict[tuple, float]]]) -> set[tuple]:
    """The streams that all rows have at each setting, so that all points are comparable."""
    sets = [set(accuracies) for places in found.values() for accuracies in places.values()]
    return set.intersection(*sets) if sets else set()


def _means(settings: dict, shared: set[tuple]) -> tuple[list, list[float]]:
    x = sorted(settings)
    return x, [100 * float(np.mean([settings[each][what] for what in shared])) for each in x]
