"""The table as a picture file, for a README.

Rows differ by colour and by marker (palette: Okabe and Ito, 2008).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from acclimate.report.comparison import Comparison
from acclimate.report.exports import percent
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


def result_picture(path: Path, table: Comparison, *, title: str = "") -> None:
    """Save the accuracies as dots with the figures beside them, on white, for a README.

    Args:
        path: Ends in ``.png`` or ``.svg``.
        table: The table to show, without its held-out columns.
        title: Printed above.

    Raises:
        InputError: the file cannot be written.
    """
    columns = [i for i, column in enumerate(table.columns) if column.kind != "held out"]
    height = 1.1 + 0.36 * len(columns) + (0.4 if title else 0)
    width = 0.8 * len(table.rows)
    figure = Figure(figsize=(5.6 + width, height), layout="constrained")
    figure.patch.set_facecolor("white")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[5.2, width])
    for axes in (left, right):
        _plain(axes)
    _draw_dots(left, table, columns)
    left.set_xlabel("accuracy, %")
    _draw_numbers(right, table, columns)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=_INK)
    kind = Path(path).suffix.lstrip(".").lower()
    write_atomically(path, lambda aside: figure.savefig(aside, format=kind, dpi=160))


def _draw_dots(axes: Axes, table: Comparison, columns: Sequence[int]) -> None:
    """A line for each column of the table, a dot on it for each row."""
    scores = [[row.scores[i] for i in columns] for row in table.rows]
    accuracy = 100 * np.array([[s.mean if s else np.nan for s in some] for some in scores])
    heights = np.arange(len(columns))
    axes.hlines(
        heights,
        np.fmin.reduce(accuracy, axis=0),
        np.fmax.reduce(accuracy, axis=0),
        color="#8c8c8c",
        alpha=0.45,
        linewidth=1.2,
    )
    # Each row a little lower than the one before it, so that equal accuracies stay visible.
    offsets = np.linspace(-0.27, 0.27, len(accuracy)) if len(accuracy) > 1 else np.zeros(1)
    for place, (values, offset) in enumerate(zip(accuracy, offsets)):
        colour, marker = _look(place)
        size = 8 if marker == "*" else 5.5
        axes.plot(
            values, heights + offset, color=colour, marker=marker, markersize=size, linestyle=""
        )
    names = [table.columns[i].name.replace("_", " ") for i in columns]
    axes.set_yticks(heights, names)
    axes.tick_params(axis="y", length=0)
    for label, i in zip(axes.get_yticklabels(), columns):
        label.set_fontweight("bold" if table.columns[i].kind == "mean" else "normal")
    axes.set_ylim(len(columns) - 0.4, -0.6)
    axes.grid(axis="x", color=_INK, alpha=0.15, linewidth=0.6)


def _draw_numbers(axes: Axes, table: Comparison, columns: Sequence[int]) -> None:
    """The figures to the right of the dots; their header is also the legend."""
    for place, row in enumerate(table.rows):
        colour, marker = _look(place)
        axes.plot(place, -0.75, color=colour, marker=marker, markersize=7, clip_on=False)
        axes.text(place, -1.05, row.name, ha="center", va="bottom", fontsize=9, color=_INK)
        for height, i in enumerate(columns):
            weight = "bold" if table.rank(row, i) == 1 else "normal"
            text = percent(row.scores[i], " ± ")
            look = {"ha": "center", "va": "center", "fontsize": 9.5, "color": _INK}
            axes.text(place, height, text, fontweight=weight, **look)
    axes.set_xlim(-0.6, len(table.rows) - 0.4)
    axes.tick_params(labelleft=False, labelbottom=False, length=0)
    axes.spines["bottom"].set_visible(False)


def _look(place: int) -> tuple[str, str]:
    """Colour and marker of a row."""
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
