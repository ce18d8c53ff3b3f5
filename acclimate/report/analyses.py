"""Analyses that lie beside a grid as JSON, and how each is shown."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import plotly.graph_objects as go

from acclimate.errors import InputError
from acclimate.evaluate.analyses.record import FOLDER
from acclimate.report.figures import inside


@dataclass(frozen=True)
class Analysis:
    """An analysis as the page shows it."""

    name: str
    title: str
    caption: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    figure: go.Figure | None = None


def as_table(name: str, record: Mapping[str, Any]) -> Analysis:
    """Show ``{"title", "caption", "columns": [...], "rows": [[...]]}`` as it is."""
    rows = tuple(tuple(map(_text, row)) for row in record["rows"])
    return Analysis(name, record["title"], record["caption"], tuple(record["columns"]), rows)


def semantics(name: str, record: Mapping[str, Any]) -> Analysis:
    """The mean over corruptions before and after adapting, a row for each method and part."""
    cells = [dict(zip(record["columns"], row)) for row in record["rows"]]
    last = max(cell["steps"] for cell in cells)
    columns = ("method", "part", "steps", "Davies–Bouldin index", "distance from the classifier's")
    rows = []
    for method, part in dict.fromkeys((cell["method"], cell["part"]) for cell in cells):
        for steps in (0, last):
            same = (method, part, steps)
            mine = [c for c in cells if (c["method"], c["part"], c["steps"]) == same]
            index, drift = (
                None if None in values else mean(values)
                for values in ([c[key] for c in mine] for key in ("davies_bouldin", "drift"))
            )
            rows.append(tuple(map(_text, (*same, index, drift))))
    return Analysis(name, record["title"], record["caption"], columns, tuple(rows))


def tsne(name: str, record: Mapping[str, Any]) -> Analysis:
    """Panels in the plane."""
    return Analysis(name, record["title"], record["caption"], figure=inside.tsne(record))


def gradients(name: str, record: Mapping[str, Any]) -> Analysis:
    """A dot for each test set, and the correlations."""
    columns = ("method", "Pearson's r", "95 % interval")
    rows = tuple(
        (method, _text(found["r"]), f"{_text(found['low'])} to {_text(found['high'])}")
        for method, found in (
            ("ttt", record["r_gain_ttt"]),
            ("ttt-online", record["r_gain_ttt_online"]),
        )
    )
    drawn = inside.gradients(record)
    return Analysis(name, record["title"], record["caption"], columns, rows, drawn)


Show = Callable[[str, Mapping[str, Any]], Analysis]

ANALYSES: dict[str, Show] = {
    "temperature": as_table,
    "semantics": semantics,
    "tsne": tsne,
    "gradients": gradients,
}
"""Functions that show the file of each name, in the page's order; others follow as tables."""


def read_analyses(folder: Path) -> list[Analysis]:
    """All analyses of a grid's folder.

    Raises:
        InputError: a file is damaged, or not of the form that its name calls for.
    """
    paths = {path.stem: path for path in sorted((folder / FOLDER).glob("*.json"))}
    order = [name for name in ANALYSES if name in paths]
    order += [name for name in paths if name not in ANALYSES]
    found = []
    for name in order:
        try:
            record = json.loads(paths[name].read_text(encoding="utf-8"))
            found.append(ANALYSES.get(name, as_table)(name, record))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{paths[name]} cannot be shown: {error!r}; make it again.") from error
    return found


def _text(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
