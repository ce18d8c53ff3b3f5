"""The results as a file for other programs."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from acclimate.evaluate.cell import Cell
from acclimate.files import write_text

COLUMNS = (
    "method",
    "dataset",
    "corruption",
    "severity",
    "order",
    "seed",
    "accuracy",
    "ece",
    "n_images",
    "steps",
    "seconds",
    "images_per_second",
    "refused_steps",
)
"""The columns of ``results.csv``; each is a field of `Cell` with the same meaning and unit."""


def write_results(cells: Sequence[Cell], path: Path) -> None:
    """Write one line a cell as comma-separated values, with a header, atomically.

    Numbers are written in full, so that they read back as the same floats.

    Raises:
        InputError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(cell, column) for column in COLUMNS] for cell in cells)
    write_text(path, text.getvalue())
