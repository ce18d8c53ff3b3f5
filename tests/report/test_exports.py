import csv
import io
import re

import pytest

from acclimate.report.comparison import compare
from acclimate.report.exports import as_csv, as_latex, as_markdown, points
from acclimate.report.gains import Gain


@pytest.fixture
def table(measured, share):
    cells = [
        measured(method, corruption, share(count), bundle="50%_&", seed=seed, cost=3.0)
        for method, counts in {"source": (9, 5), "ptbn": (8, 6), "tent": (8, 9)}.items()
        for corruption, count in zip(("none", "gaussian_noise"), counts)
        for seed in ((0, 1) if method == "tent" else (0,))
    ]
    few = measured("ttt", "gaussian_noise", share(1, 2), bundle="x", images="few")
    return compare([*cells, few, measured("source", "none", share(10), bundle="x")])


def test_csv_holds_every_figure_in_full(table):
    rows = {(r["method"], r["bundle"]): r for r in csv.DictReader(io.StringIO(as_csv(table)))}
    assert len(rows) == len(table.rows)
    for row in table.rows:
        line = rows[str(row.variant), row.key[0]]
        for column, score in zip(table.columns, row.scores):
            assert line[column.name] == ("" if score is None else repr(score.mean))
            assert line[f"{column.name}_images"] == ("" if score is None else str(score.images))
    tent = rows["tent", "50%_&"]
    assert (tent["gain"], tent["mean_std"]) == (repr(4 / 20), "0.0")
    assert rows["ttt", "x"]["comparable"] == "0" and tent["comparable"] == "1"


def test_markdown_is_a_table_with_marks(table):
    lines = as_markdown(table).splitlines()
    head, ruler, *rows = [line for line in lines if line.startswith("|")]
    assert head == "| method | clean | mean | gaussian noise |"
    assert {line.count("|") for line in (head, ruler, *rows)} == {5}
    by_name = {line.split(" | ")[0].removeprefix("| "): line for line in rows}
    assert by_name["tent"] == "| tent | 40.0 ± 0.0 | **45.0 ± 0.0** | **45.0 ± 0.0** |"
    assert by_name["ptbn"] == "| ptbn | 40.0 | *30.0* | *30.0* |"
    assert by_name["source · x"] == "| source · x | **50.0** | – | – |"
    assert by_name["ttt†"] == "| ttt† | – | 50.0 | 50.0 |"
    assert "not compared" in lines[-1]


def test_latex_is_balanced_and_escaped(table):
    text = as_latex(table)
    assert text.count("\\begin{") == text.count("\\end{") == 1
    assert text.count("{") == text.count("}")
    body = text.split("\\midrule")[1].split("\\bottomrule")[0]
    rows = [line for line in body.splitlines() if line]
    assert all(len(re.findall(r"(?<!\\)&", line)) == 3 and line.endswith(r" \\") for line in rows)
    assert not re.search(r"(?<!\\)[%#_]", body)
    assert r"source, 50\%\_\&" in text
    assert r"\textbf{45.0 $\pm$ 0.0}" in text and r"\underline{30.0}" in text
    assert "†" not in text and r"ttt$^\dagger$" in text


def test_points_have_a_sign_and_an_interval():
    assert points(Gain(0.1234, -0.001, 0.25)) == "+12.3 [−0.1, +25.0]"
    assert points(Gain(-0.0001, -0.02, 0.0)) == "+0.0 [−2.0, +0.0]"
    assert points(None) == "–"
