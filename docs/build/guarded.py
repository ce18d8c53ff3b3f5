"""The kinds of tables in the docs that show the harm suite.

Their rows are described in `tables`.
"""

from collections.abc import Sequence
from pathlib import Path

from records import Cells, Filler, Row, bare, read


def harm(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """A column for each method, with ``guarded`` before it for the guarded one."""
    found = {(row["stream"], row["method"]): row for path in sources for row in read(path)}
    frozen = {stream: row["frozen"] for (stream, _), row in found.items()}

    def of(stream: str, column: str) -> str:
        if column == "frozen":
            return _one(frozen[stream])
        measured = found.get((stream, column.removeprefix("guarded ")))
        if measured is None:
            return "-"
        if not column.startswith("guarded "):
            return _gain(measured["unguarded_gain"])
        return _limits(measured, "guarded")

    return [row[:1] + [of(bare(row[:1])[0], name) for name in bare(header[1:])] for row in rows]


def harm_summary(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """Six columns."""
    [path] = sources
    found = {row["method"]: row for row in read(path)}

    def of(row: Row) -> Cells:
        measured = found[row[0]]
        lowest = [
            f"{_limits(measured, name)} {measured[f'{name}_worst']}"
            for name in ("unguarded", "guarded")
        ]
        below = [
            f"{measured[f'{name}_below']} ({measured[f'{name}_surely']})"
            for name in ("unguarded", "guarded")
        ]
        kept = "-"
        if measured["kept"]:
            kept = f"{_one(measured['kept'])} % of {measured['good']}"
            kept += f"; {_one(measured['least_kept'])} % {measured['least_kept_on']}"
        return [measured["streams"], lowest[0], below[0], lowest[1], below[1], kept]

    return [row[:1] + of(bare(row[:1])) for row in rows]


def harm_changes(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """Five columns: totals of the streams that are judged in a way."""
    measured = [row for path in sources for row in read(path)]

    def of(judged_by: str) -> Cells:
        mine = [row for row in measured if row["judged_by"] == judged_by]
        if not mine:
            raise KeyError(f"there is no stream that is judged by {judged_by}")
        images, switches, found, told = (
            sum(int(row[name]) for row in mine) for name in ("images", "switches", "found", "told")
        )
        false = "-"
        if judged_by != "nothing":
            wrong = sum(int(row["false"]) for row in mine)
            false = f"{wrong} ({20_000 * wrong / images:.2f})"
        some = f"{found} of {switches}" if switches else "-"
        return [str(len(mine)), f"{images:,}", some, str(told), false]

    return [row[:1] + of(bare(row[:1])[0]) for row in rows]


def _one(value: str) -> str:
    return f"{float(value):.1f}"


def _gain(value: str) -> str:
    return f"{float(value):+.1f}"


def _limits(row: dict[str, str], name: str) -> str:
    gain, low, high = (_gain(row[f"{name}_{each}"]) for each in ("gain", "low", "high"))
    return f"{gain} [{low}, {high}]"


KINDS: dict[str, Filler] = {
    "harm": harm,
    "harm-summary": harm_summary,
    "harm-changes": harm_changes,
}
