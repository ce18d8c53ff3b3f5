"""Looks inside models: features in the plane, gradients against gains."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from acclimate.report.figures.style import COLOURS, figure

_STATES = {"clean": "clean", "before": "corrupted", "after": "adapted"}


def tsne(record: Mapping[str, Any]) -> go.Figure:
    """A row for each method and part, a column for each state; a colour a class."""
    cells = [dict(zip(record["columns"], row)) for row in record["rows"]]
    rows = list(dict.fromkeys((cell["method"], cell["part"]) for cell in cells))
    titles = [
        f"{method} {part}, {shown}: {_index(cells, method, part, state):.2f}"
        for method, part in rows
        for state, shown in _STATES.items()
    ]
    drawn = make_subplots(
        len(rows), len(_STATES), subplot_titles=titles, horizontal_spacing=0.02,
        vertical_spacing=0.25 / len(rows),
    )  # fmt: skip
    for cell, points, labels in zip(cells, record["points"], record["labels"]):
        place = {
            "row": 1 + rows.index((cell["method"], cell["part"])),
            "col": 1 + list(_STATES).index(cell["state"]),
        }
        for number, name in enumerate(record["classes"]):
            chosen = [point for point, label in zip(points, labels) if label == number]
            drawn.add_scatter(
                x=[x for x, _ in chosen],
                y=[y for _, y in chosen],
                name=name,
                legendgroup=name,
                showlegend=place == {"row": 1, "col": 1},
                mode="markers",
                marker={"size": 4, "color": COLOURS[number % len(COLOURS)]},
                hoverinfo="name",
                **place,
            )
    drawn.update_xaxes(visible=False).update_yaxes(visible=False)
    drawn.update_annotations(font_size=11)
    return drawn.update_layout(
        height=60 + 240 * len(rows), margin={"l": 8, "r": 8, "t": 32, "b": 8}, template=None
    )


def gradients(record: Mapping[str, Any]) -> go.Figure:
    """A dot for each test set and each method that takes steps."""
    cells = [dict(zip(record["columns"], row)) for row in record["rows"]]
    traces = [
        go.Scatter(
            x=[cell["inner_product"] for cell in cells],
            y=[100 * cell[kind] for cell in cells],
            text=[f"{cell['corruption'].replace('_', ' ')} {cell['severity']}" for cell in cells],
            name=name,
            mode="markers",
            marker={"size": 8, "color": colour, "symbol": symbol},
            hovertemplate="%{text}: %{x:.3g}, %{y:+.1f} points",
        )
        for kind, name, colour, symbol in (
            ("gain_ttt", "ttt", COLOURS[4], "circle"),
            ("gain_ttt_online", "ttt-online", COLOURS[3], "diamond"),
        )
    ]
    return figure(traces, x="inner product of the gradients", y="gain over joint, points")


def _index(cells: list[dict], method: str, part: str, state: str) -> float:
    wanted = (method, part, state)
    return next(
        cell["davies_bouldin"]
        for cell in cells
        if (cell["method"], cell["part"], cell["state"]) == wanted
    )
