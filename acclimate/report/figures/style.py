"""Looks of rows and the frame of all figures.

Ink and grid are the page's own, so that figures suit light and dark. Methods differ by colour, and
where colours come round again by marker.
"""

from collections import Counter
from collections.abc import Iterable
from html import escape
from typing import Any

import plotly.graph_objects as go

from acclimate.methods import METHODS
from acclimate.report.comparison import BASELINES
from acclimate.report.measured import RowKey

COLOURS = (
    "#8c8c8c", "#56b4e9", "#cc79a7", "#009e73", "#d55e00", "#e69f00",
    "#3b82d0", "#a3a000", "#9467bd", "#2aa5a0", "#c44e52",
)  # fmt: skip
_MARKERS = {
    "circle": "●", "diamond": "◆", "square": "■", "triangle-up": "▲",
    "cross": "✚", "triangle-down": "▼", "x": "✖", "star": "★",
}  # fmt: skip
"""Plotly's names, and how they look in text."""

Look = dict[str, str]
"""``color``, ``symbol`` as plotly calls it, and ``glyph``, the same in text."""


def looks(rows: Iterable[RowKey]) -> dict[RowKey, Look]:
    """A look for each row.

    The method's place in the table of methods decides, so that a method looks the same in every
    figure and every report. Further bundles and variants of a method have its colour and another
    marker; further bundles of baselines, of which figures show few, have the same marker too.
    """
    given: dict[RowKey, Look] = {}
    seen: Counter[str] = Counter()
    for bundle, variant in rows:
        place = list(METHODS).index(variant.method)
        turn = place // len(COLOURS) + (variant not in BASELINES) * 2 * seen[variant.method]
        seen[variant.method] += 1
        symbol = list(_MARKERS)[turn % len(_MARKERS)]
        colour = COLOURS[place % len(COLOURS)]
        given[bundle, variant] = {"color": colour, "symbol": symbol, "glyph": _MARKERS[symbol]}
    return given


def marker(look: Look, size: int) -> dict[str, object]:
    """A look as plotly's markers take it."""
    return {"color": look["color"], "symbol": look["symbol"], "size": size}


def line(name: str, look: Look, x: Iterable[Any], y: Iterable[Any], **more: Any) -> go.Scatter:
    """A row's curve with markers; y in percent."""
    return go.Scatter(
        x=list(x),
        y=list(y),
        name=escape(name),
        mode="lines+markers",
        line={"color": look["color"], "width": 2},
        marker=marker(look, 7),
        **{"hovertemplate": "%{y:.1f} % after %{x}"} | more,
    )


def figure(traces: Iterable[go.Scatter], *, x: str, y: str, height: int = 380) -> go.Figure:
    """Traces in a frame without background, with the names of the axes."""
    return go.Figure(
        list(traces),
        {
            "height": height,
            "margin": {"l": 8, "r": 16, "t": 24, "b": 8},
            "xaxis": {"title": {"text": x}, "automargin": True},
            "yaxis": {"title": {"text": y}, "automargin": True},
            "hovermode": "closest",
            "template": None,
        },
    )
