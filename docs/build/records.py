"""The kinds of tables in the docs that show a record: of an analysis, or of a comparison.

Their rows are described in `tables`.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean, mean

Cells = list[str]
Row = tuple[str, ...]
"""What a row of a table is about: what it begins with."""
Filler = Callable[[Sequence[Path], Cells, list[Cells]], list[Cells]]
"""From files, the header and rows to rows with their figures.

Raises KeyError if a row is about something that was not measured."""


def bare(cells: Iterable[str]) -> Row:
    """Cells without emphasis."""
    return tuple(cell.strip("*`") for cell in cells)


def percent(value: float | None) -> str:
    """A fraction, or that it was not measured."""
    return "-" if value is None else f"{100 * value:.1f}"


@cache
def read(path: Path) -> list[dict[str, str]]:
    """A table's rows."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def changed(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """A column for each change."""
    [path] = sources
    found = {(r["method"], r["steps"], r["change"]): float(r["accuracy"]) for r in read(path)}
    known = {(row["method"], row["steps"]) for row in read(path)}
    changes = {row["change"] for row in read(path)}
    for name in [*(set(header[2:]) - changes), *({bare(row[:2]) for row in rows} - known)]:
        raise KeyError(f"{path.name} has nothing of {name}")
    return [
        row[:2] + [percent(found.get((*bare(row[:2]), change))) for change in header[2:]]
        for row in rows
    ]


def agreement(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """Two columns."""
    [path] = sources
    found = {(row["method"], row["corruption"]): row for row in read(path)}

    def of(row: Cells, name: str) -> str:
        measured = found[bare(row[:2])]
        return f"{float(measured[name]):+.3f} ± {float(measured[f'{name}_error']):.3f}"

    return [row[:2] + [of(row, name) for name in ("cosine", "fall")] for row in rows]


def claims(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """Two columns in the middle."""
    [path] = sources
    found = {(row["claim"], row["where"]): row for row in read(path)}

    def of(row: Cells) -> Cells:
        measured = found[bare(row[:2])]
        limits = (100 * float(measured[name]) for name in ("difference", "low", "high"))
        return [measured["images"], "{:+.1f} [{:+.1f}, {:+.1f}]".format(*limits)]

    return [row[:2] + of(row) + row[4:] for row in rows]


def semantics(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """Two columns."""
    [path] = sources
    record = json.loads(path.read_text())
    found = defaultdict(list)
    for values in record["rows"]:
        measured = dict(zip(record["columns"], values))
        name = (measured["method"], measured["part"], str(measured["steps"]))
        found[name].append((measured["davies_bouldin"], measured["drift"]))

    def of(row: Cells) -> Cells:
        indices, drifts = zip(*dict(found)[bare(row[:3])])
        return [f"{mean(indices):.2f}", "-" if None in drifts else f"{mean(drifts):.1f}"]

    return [row[:3] + of(row) for row in rows]


def gradients(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """A column in the middle."""
    [path] = sources
    record = json.loads(path.read_text())

    def of(row: Cells) -> str:
        measured = record[f"r_gain_{bare(row)[0].replace('-', '_')}"]
        return "{r:+.2f} [{low:+.2f}, {high:+.2f}]".format(**measured)

    return [[row[0], of(row), *row[2:]] for row in rows]


def drift(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """Two columns."""
    [path] = sources
    found = {
        (row["method"], row["statistics"], row["steps"]): [
            f"{float(row['drift']):.2f}",
            row["worse"],
        ]
        for row in read(path)
        if row["drift"] != "nan"
    }
    return [row[:3] + found[bare(row[:3])] for row in rows]


def temperature(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """Two columns."""
    [path] = sources
    record = json.loads(path.read_text())
    measured = [dict(zip(record["columns"], values)) for values in record["rows"]]
    found = {(row["method"], row["temperature"] or "-"): row for row in measured}
    return [
        row[:2] + [percent(found[bare(row[:2])][name]) for name in ("clean", "corrupted")]
        for row in rows
    ]


def arrivals(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """A column for each size of batches that come shuffled, or order of batches of 128."""
    [path] = sources
    found = defaultdict(list)
    for row in read(path):
        if row["corruption"] != "none":
            name = (row["method"], row["bundle"], row["order"], row["batch"])
            found[name].append((float(row["accuracy"]), int(row["n_images"])))

    def of(row: Cells, column: str) -> str:
        arrival = ("shuffled", column) if column.isdigit() else (column, "128")
        accuracies, weights = zip(*dict(found)[*bare(row[:2]), *arrival])
        return percent(fmean(accuracies, weights))

    return [row[:2] + [of(row, name) for name in bare(header[2:])] for row in rows]


def along(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """Ten columns, in the order in which images came."""
    [path] = sources
    found = {
        (row["method"], row["bundle"], row["order"], row["tenth"]): float(row["accuracy"])
        for row in read(path)
        if row["batch"] == "128"
    }
    tenths = range(1, len(header) - 2)
    return [row[:3] + [percent(found[*bare(row[:3]), str(t)]) for t in tenths] for row in rows]


def gains(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """A column for each protocol and size of batches: the gain over the frozen classifier."""
    [path] = sources
    found = {}
    for row in read(path):
        name = row.get("called") or row["method"], row["bundle"], row["images"]
        found[*name, row["protocol"], row["batch"]] = row

    def of(row: Row, column: str) -> str:
        protocol, batch, *other = column.split()
        measured = found.get((*row, protocol, batch))
        if measured is None:
            return "-"
        if other or not measured["gain"]:
            return percent(float(measured[other[0] if other else "corrupted"]))
        limits = (100 * float(measured[name]) for name in ("gain", "gain_low", "gain_high"))
        return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*limits)

    for name in {bare(row[:3]) for row in rows} - {key[:3] for key in found}:
        raise KeyError(f"{path.name} has nothing of {' '.join(name)}")
    return [row[:3] + [of(bare(row[:3]), name) for name in bare(header[3:])] for row in rows]


def columns(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """Columns of the file by their names, of the row that has the same in the first column."""
    [path] = sources
    first, *others = (name.replace(" ", "_") for name in bare(header))
    found = {row[first]: row for row in read(path)}

    def of(row: Cells) -> Cells:
        measured = found[bare(row)[0]]
        return [row[0], *(measured[name] or "-" for name in others)]

    return [of(row) for row in rows]


def serving(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """Four columns."""
    [path] = sources
    servers = json.loads(path.read_text())["servers"]

    def of(server: str, clients: str) -> Cells:
        found = servers[server][clients]
        names = ("images_per_second", "p50_ms", "p95_ms", "p99_ms")
        return [f"{found[name]:,.0f}" for name in names]

    return [row[:2] + of(*bare(row[:2])) for row in rows]


KINDS: dict[str, Filler] = {
    "columns": columns,
    "serving": serving,
    "gains": gains,
    "arrivals": arrivals,
    "along": along,
    "changed": changed,
    "agreement": agreement,
    "claims": claims,
    "semantics": semantics,
    "gradients": gradients,
    "drift": drift,
    "temperature": temperature,
}
