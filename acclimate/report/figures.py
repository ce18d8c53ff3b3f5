"""The charts, as SVG to put into a page or as a picture file.

Charts for a page have no background, and ink in the page's own text colour, so that they suit
light and dark alike. Methods differ by colour and by marker (palette: Okabe and Ito, 2008).
"""

import io
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from acclimate.evaluate.cell import Cell
from acclimate.files import write_atomically
from acclimate.report.summary import Summary, reported_cells

_INK = "#010203"
"""Stands for the page's text colour until the SVG is written."""
_COLOURS = (
    "#8c8c8c",
    "#56b4e9",
    "#cc79a7",
    "#009e73",
    "#d55e00",
    "#e69f00",
    "#3b82d0",
    "#b3a100",
)
_MARKERS = ("o", "s", "^", "D", "*", "v", "P")
_PER_CORRUPTION_INCHES = 0.42

Curves = dict[str, np.ndarray]
"""Accuracy after 0, 1, ... steps of each method that has a curve, in percent."""


def iterations_figure(
    cells: Sequence[Cell], methods_order: Sequence[str], held_out: Collection[str]
) -> str:
    """Mean accuracy over the reported corruptions after each step, as inline SVG.

    Returns:
        The SVG, or an empty string if no method took steps.
    """
    cells = reported_cells(cells, held_out)
    curves = _curves(cells, methods_order)
    if not curves:
        return ""
    figure, axes = _chart(width=4.8, height=3.4)
    _draw_curves(axes, curves, methods_order)
    axes.set_xlabel("gradient steps a batch")
    axes.set_ylabel("accuracy, %")
    _legend(figure, tuple(curves), methods_order)
    return _inline_svg(figure, salt="iterations")


def iterations_by_corruption(
    cells: Sequence[Cell], methods_order: Sequence[str], held_out: Collection[str]
) -> dict[str, str]:
    """The same for each reported corruption alone: small inline SVGs in the same colours."""
    by_corruption = defaultdict(list)
    for cell in reported_cells(cells, held_out):
        by_corruption[cell.corruption].append(cell)
    pictures = {}
    for corruption, some in by_corruption.items():
        if curves := _curves(some, methods_order):
            figure, axes = _chart(width=2.3, height=1.6)
            _draw_curves(axes, curves, methods_order, marker_size=3)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            pictures[corruption] = _inline_svg(figure, salt=corruption)
    return pictures


def accuracy_figure(summary: Summary, methods_order: Sequence[str]) -> str:
    """Accuracy of each method on each corruption, a row a corruption, as inline SVG."""
    rows = _rows(summary)
    figure, axes = _chart(width=4.8, height=1.1 + _PER_CORRUPTION_INCHES * len(rows))
    _draw_dots(axes, summary, rows, methods_order)
    axes.set_xlabel("accuracy, %")
    _legend(figure, summary.methods, methods_order)
    return _inline_svg(figure, salt="accuracy")


def result_picture(
    path: Path, summary: Summary, methods_order: Sequence[str], *, title: str = ""
) -> None:
    """Save the accuracies as dots with the figures beside them, on white, for a README.

    Args:
        path: Ends in ``.png`` or ``.svg``.
        summary: What to show.
        methods_order: Gives each method the same colour as in the page.
        title: Printed above.

    Raises:
        InputError: the file cannot be written.
    """
    rows, methods = _rows(summary), summary.methods
    height = 1.1 + 0.36 * len(rows) + (0.4 if title else 0)
    figure = Figure(figsize=(5.6 + 0.8 * len(methods), height), layout="constrained")
    figure.patch.set_facecolor("white")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[5.2, 0.8 * len(methods)])
    for axes in (left, right):
        _plain(axes, ink="#24292f")
    _draw_dots(left, summary, rows, methods_order)
    left.set_xlabel("accuracy, %")
    _draw_numbers(right, summary, rows, methods_order)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color="#24292f")
    kind = Path(path).suffix.lstrip(".").lower()
    write_atomically(path, lambda aside: figure.savefig(aside, format=kind, dpi=160))


def swatches(methods_order: Sequence[str]) -> dict[str, str]:
    """The colour of each method, as ``#rrggbb``."""
    return {method: _look(method, methods_order)[0] for method in methods_order}


def _curves(cells: Sequence[Cell], methods_order: Sequence[str]) -> Curves:
    found = defaultdict(list)
    for cell in cells:
        if len(cell.curve) > 1:
            found[cell.method].append(cell.curve)
    return {m: 100 * np.mean(found[m], axis=0) for m in methods_order if m in found}


def _draw_curves(
    axes: Axes, curves: Curves, methods_order: Sequence[str], *, marker_size: float = 5
) -> None:
    for method, curve in curves.items():
        colour, marker = _look(method, methods_order)
        few = marker_size if len(curve) <= 8 else 0.6 * marker_size
        axes.plot(curve, color=colour, marker=marker, markersize=few, linewidth=1.6)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    low, high = axes.get_ylim()
    # Fractions of a point are noise: do not let the scale magnify them.
    margin = max(0.0, (2 - (high - low)) / 2)
    axes.set_ylim(low - margin, high + margin)
    axes.grid(axis="y", color=_INK, alpha=0.15, linewidth=0.6)


def _rows(summary: Summary) -> list[int]:
    """The columns of the table that become rows of the chart."""
    return [i for i, column in enumerate(summary.columns) if column.kind != "held out"]


def _draw_dots(
    axes: Axes, summary: Summary, rows: Sequence[int], methods_order: Sequence[str]
) -> None:
    accuracy = 100 * summary.accuracy[:, rows]  # [methods, rows]
    heights = np.arange(len(rows))
    axes.hlines(
        heights,
        np.fmin.reduce(accuracy, axis=0),
        np.fmax.reduce(accuracy, axis=0),
        color="#8c8c8c",
        alpha=0.45,
        linewidth=1.2,
    )
    # Each method a little lower than the one before it, so that equal ones stay visible.
    offsets = np.linspace(-0.27, 0.27, len(accuracy)) if len(accuracy) > 1 else np.zeros(1)
    for method, values, offset in zip(summary.methods, accuracy, offsets):
        colour, marker = _look(method, methods_order)
        size = 8 if marker == "*" else 5.5
        axes.plot(
            values, heights + offset, color=colour, marker=marker, markersize=size, linestyle=""
        )
    names = [summary.columns[row].name.replace("_", " ") for row in rows]
    axes.set_yticks(heights, names)
    axes.tick_params(axis="y", length=0)
    for label, row in zip(axes.get_yticklabels(), rows):
        label.set_fontweight("bold" if summary.columns[row].kind == "mean" else "normal")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", color=axes.xaxis.label.get_color(), alpha=0.15, linewidth=0.6)


def _draw_numbers(
    axes: Axes, summary: Summary, rows: Sequence[int], methods_order: Sequence[str]
) -> None:
    """The table to the right of the dots: its header is also their legend."""
    texts, best = summary.texts(), summary.best()
    ink = axes.xaxis.label.get_color()
    for column, method in enumerate(summary.methods):
        colour, marker = _look(method, methods_order)
        axes.plot(column, -0.75, color=colour, marker=marker, markersize=7, clip_on=False)
        axes.text(column, -1.05, method, ha="center", va="bottom", fontsize=9, color=ink)
        for height, row in enumerate(rows):
            weight = "bold" if best[column, row] else "normal"
            place = {"ha": "center", "va": "center", "fontsize": 9.5, "color": ink}
            axes.text(column, height, texts[column][row], fontweight=weight, **place)
    axes.set_xlim(-0.6, len(summary.methods) - 0.4)
    axes.tick_params(labelleft=False, labelbottom=False, length=0)
    axes.spines["bottom"].set_visible(False)


def _look(method: str, methods_order: Sequence[str]) -> tuple[str, str]:
    place = list(methods_order).index(method)
    return _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]


def _chart(*, width: float, height: float) -> tuple[Figure, Axes]:
    """A figure without background with one plot in it; inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.subplots()
    _plain(axes, ink=_INK)
    return figure, axes


def _plain(axes: Axes, *, ink: str) -> None:
    axes.patch.set_visible(False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(ink)
    axes.spines["bottom"].set_alpha(0.4)
    axes.tick_params(colors=ink, labelsize=10)
    axes.xaxis.label.set_color(ink)
    axes.yaxis.label.set_color(ink)


def _legend(figure: Figure, methods: Sequence[str], methods_order: Sequence[str]) -> None:
    looks = [_look(method, methods_order) for method in methods]
    handles = [Line2D([], [], color=c, marker=m, linestyle="", markersize=6) for c, m in looks]
    figure.legend(
        handles,
        list(methods),
        loc="outside upper left",
        ncols=4,
        frameon=False,
        labelcolor=_INK,
        fontsize=10,
        handletextpad=0.2,
        columnspacing=1.0,
    )


def _inline_svg(figure: Figure, *, salt: str) -> str:
    """The figure as an SVG element: text as text, the page's ink, a size that the page sets.

    Args:
        figure: What to draw.
        salt: Differs between the figures of a page, so that their ids do too.
    """
    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    return re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
