"""An analysis as a file that the report shows: ``analyses/NAME.json`` beside a grid."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from acclimate.runtime import machine
from acclimate.storage.atomic import write_text

FOLDER = "analyses"


def write_record(
    out: Path,
    name: str,
    *,
    title: str,
    caption: str,
    rows: Iterable[Mapping[str, object]],
    settings: Mapping[str, object],
    more: Mapping[str, object] | None = None,
) -> Path:
    """Write a table, its settings, and whatever else its figure needs, atomically.

    Args:
        out: The grid's folder.
        name: Name of the analysis.
        title: Heading of the analysis.
        caption: A sentence or two about what is shown.
        rows: Rows with the same keys, which become the columns; nan becomes null.
        settings: Settings of the analysis.
        more: Further entries of the file.

    Raises:
        InputError: it cannot be written.
    """
    listed = [dict(row) for row in rows]
    columns = list(listed[0]) if listed else []
    record = {
        "title": title,
        "caption": caption,
        "columns": columns,
        "rows": [[row[column] for column in columns] for row in listed],
        "settings": dict(settings),
        "machine": machine.describe(),
        **(more or {}),
    }
    path = out / FOLDER / f"{name}.json"
    write_text(path, json.dumps(_plain(record), indent=1, allow_nan=False) + "\n")
    return path


def _plain(value: object) -> object:
    """The value with null in place of nan."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
