"""The result as a picture file, for a README.

Methods differ by colour and by marker (palette: Okabe and Ito, 2008).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from acclimate.report.summary import Summary
from acclimate.storage.atomic import write_atomically

_INK = "#24292f"
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


def result_picture(
    path: Path, summary: Summary, methods_order: Sequence[str], *, title: str = ""
) -> None:
    """Save the accuracies as dots with the figures beside them, on white, for a README.

    Args:
        path: Ends in ``.png`` or ``.svg``.
        summary: What to show.
        methods_order: Gives each method its colour.
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
        _plain(axes)
    _draw_dots(left, summary, rows, methods_order)
    left.set_xlabel("accuracy, %")
    _draw_numbers(right, summary, rows, methods_order)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=_INK)
    kind = Path(path).suffix.lstrip(".").lower()
    write_atomically(path, lambda aside: figure.savefig(aside, format=kind, dpi=160))


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
    axes.grid(axis="x", color=_INK, alpha=0.15, linewidth=0.6)


def _draw_numbers(
    axes: Axes, summary: Summary, rows: Sequence[int], methods_order: Sequence[str]
) -> None:
    """The table to the right of the dots: its header is also their legend."""
    texts, best = summary.texts(), summary.best()
    for column, method in enumerate(summary.methods):
        colour, marker = _look(method, methods_order)
        axes.plot(column, -0.75, color=colour, marker=marker, markersize=7, clip_on=False)
        axes.text(column, -1.05, method, ha="center", va="bottom", fontsize=9, color=_INK)
        for height, row in enumerate(rows):
            weight = "bold" if best[column, row] else "normal"
            place = {"ha": "center", "va": "center", "fontsize": 9.5, "color": _INK}
            axes.text(column, height, texts[column][row], fontweight=weight, **place)
    axes.set_xlim(-0.6, len(summary.methods) - 0.4)
    axes.tick_params(labelleft=False, labelbottom=False, length=0)
    axes.spines["bottom"].set_visible(False)


def _look(method: str, methods_order: Sequence[str]) -> tuple[str, str]:
    place = list(methods_order).index(method)
    return _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]


def _plain(axes: Axes) -> None:
    axes.patch.set_visible(False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_INK)
    axes.spines["bottom"].set_alpha(0.4)
    axes.tick_params(colors=_INK, labelsize=10)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
