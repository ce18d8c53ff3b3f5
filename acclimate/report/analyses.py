"""Analyses that lie beside a grid as JSON, and how each is shown."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go

from acclimate.errors import InputError
from acclimate.evaluate.analyses.record import FOLDER


@dataclass(frozen=True)
class Analysis:
    """What the page shows of one."""

    name: str
    title: str
    caption: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    figure: go.Figure | None = None


def as_table(name: str, record: Mapping) -> Analysis:
    """Show ``{"title", "caption", "columns": [...], "rows": [[...]]}`` as it is."""
    rows = tuple(tuple(map(_text, row)) for row in record["rows"])
    return Analysis(name, record["title"], record["caption"], tuple(record["columns"]), rows)


Show = Callable[[str, Mapping], Analysis]

ANALYSES: dict[str, Show] = {
    "temperature": as_table,
    "semantics": as_table,
    "tsne": as_table,
    "gradients": as_table,
    "uda": as_table,
}
"""How the file of a name is shown, in the order of the page; others follow as tables."""


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
