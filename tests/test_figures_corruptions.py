"""The table in docs/corruptions.md says what the committed benchmark results say.

``python tests/test_figures_corruptions.py`` writes it anew.
"""

import csv
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "corruptions.md"
RESULTS = ROOT / "results" / "benchmarks"
TABLE = re.compile(r"(?<=<!-- measured -->\n)(?:\|.*\n)*")


HEAD = """\
| | 32 px: ours | package | ratio | 224 px: ours | package | ratio | effect, 224 px | 64 px |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def effects(size: int) -> dict[str, str]:
    """Difference in accuracy and its interval for each corruption, in points."""
    with (RESULTS / f"corruption_effect_{size}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    points = {row["corruption"]: (row["difference"], row["half_interval"]) for row in rows}
    return {name: f"{float(a):+.1f} ± {float(b):.1f}" for name, (a, b) in points.items()}


def speeds() -> list[dict[str, list[str]]]:
    """For each size, ours, the package's and the ratio for each corruption."""
    found = []
    for result in json.loads((RESULTS / "corruptions.json").read_text())["results"]:
        rows = {f"`{row['corruption']}`": row for row in result["rows"]}
        rows["**the fifteen**"] = result["fifteen"]
        cells = {}
        for name, row in rows.items():
            each, ratio = row["milliseconds_an_image"], row["ratio_to_one_process"]["median"]
            times = (each["ours"], each["package in one process"])
            cells[name] = [*(f"{time:.2f} ms" for time in times), f"{ratio:.1f}"]
        found.append(cells)
    return found


def table() -> str:
    """Speed at two sizes and effect at two sizes, a row a corruption."""
    by_size, effect = speeds(), [effects(224), effects(64)]
    lines = []
    for name in [*by_size[0], "`frost (synthetic)`"]:
        speed = [cell for rows in by_size for cell in rows.get(name, [""] * 3)]
        points = [found.get(name.strip("`"), "") for found in effect]
        lines.append(f"| {' | '.join([name, *speed, *points])} |\n")
    return HEAD + "".join(lines)


def test_the_table_says_what_was_measured():
    (written,) = TABLE.findall(PAGE.read_text(encoding="utf-8"))
    assert written == table(), "run python tests/test_figures_corruptions.py to write it anew"


if __name__ == "__main__":
    page = TABLE.sub(lambda _: table(), PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(page, encoding="utf-8")
