"""Numbers that others published, to stand beside ours."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from acclimate.errors import InputError

_COLUMNS = ("method", "corruption", "severity", "accuracy", "std")


@dataclass(frozen=True)
class Published:
    """A figure of a paper's table."""

    method: str
    corruption: str
    severity: float
    accuracy: float
    """A fraction."""
    deviation: float | None
    """Over seeds, a fraction; None where the paper gives none."""


def read_published(path: Path) -> list[Published]:
    """Read ``method,corruption,severity,accuracy,std``; accuracies are fractions, std may be empty.

    Raises:
        InputError: the file is not there, or not of this form.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != _COLUMNS:
                raise InputError(f"{path} must begin with the line {','.join(_COLUMNS)}.")
            return [_published(path, reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"cannot read {path}: {reason}; give a CSV file.") from error


def published_score(
    published: Sequence[Published], method: str, corruptions: Sequence[str], severity: float | None
) -> float | None:
    """The mean over corruptions, a fraction; None if one of them was not published.

    A row of published settings, such as ``cta-paper``, has what was published of the method.
    """
    known = {method, method.removesuffix("-paper")}
    found = {
        each.corruption: each.accuracy
        for each in published
        if each.method in known and each.severity == severity
    }
    if not corruptions or any(name not in found for name in corruptions):
        return None
    return sum(found[name] for name in corruptions) / len(corruptions)


def _published(path: Path, number: int, row: dict[str, str]) -> Published:
    try:
        accuracy, deviation = float(row["accuracy"]), float(row["std"]) if row["std"] else None
        severity = float(row["severity"])
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}, line {number}: a figure is missing or no number.") from error
    if not 0 <= accuracy <= 1:
        raise InputError(f"{path}, line {number}: accuracies are fractions, not {accuracy:g}.")
    return Published(row["method"], row["corruption"], severity, accuracy, deviation)
