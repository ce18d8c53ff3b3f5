"""Every table of figures in README and docs says what the committed results say.

A marked table ends in two columns for each file that its mark names, accuracies in percent: clean,
and the mean over corruptions. ``<!-- figures: results/NAME/results.csv -->``: a row begins with the
method, and where methods have several bundles with method and bundle; the mean is over the reported
corruptions, and over seeds. ``results/NAME/held_out.csv``: a row begins with setting and method,
and the mean is over the held-out corruptions.

``<!-- adapting: results/NAME/results.csv -->``: a row begins with method, bundle and number of
images; its figures are of the bundle's frozen classifier (clean, mean over corruptions), the same
with batch statistics (mean), the method at learning rate 0 (mean) and the method (clean, mean
± its deviation over seeds, where there are several);
``-`` is not measured. ``by-corruption``: the same first three columns, and the method's accuracy
under each corruption of the header. ``changed``, ``agreement``, ``claims``, ``semantics`` and
``drift`` are tables of files of these names.
"""

import csv
import json
import re
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

import pytest

from acclimate.quickstart import HELD_OUT

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARKED = re.compile(r"<!-- figures: ([^>]+) -->\n((?:\|.*\n)+)")
TABLES = [
    pytest.param(sources.split(), table, id=f"{page.name}-{number}")
    for page in PAGES
    for number, (sources, table) in enumerate(MARKED.findall(page.read_text(encoding="utf-8")))
]


def cells_of(row: str) -> list[str]:
    """A row's cells, without emphasis."""
    return [cell.strip().strip("*`") for cell in row.strip("|").split("|")]


def marked(kind: str) -> list:
    """Source and text of each table that is marked so."""
    mark = re.compile(rf"<!-- {kind}: ([^>]+) -->\n((?:\|.*\n)+)")
    return [
        pytest.param(source, table, id=f"{page.name}-{number}")
        for page in PAGES
        for number, (source, table) in enumerate(mark.findall(page.read_text(encoding="utf-8")))
    ]


KINDS = ("adapting", "by-corruption", "changed", "agreement", "claims", "semantics", "drift")
ADAPTING, BY_CORRUPTION, CHANGED, AGREEMENT, CLAIMS, SEMANTICS, DRIFT = map(marked, KINDS)


def measured(path: Path, images: str = "") -> dict[tuple[str, ...], tuple[float, float]]:
    """Clean and mean corrupted accuracy of each row of a results file, as fractions."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if path.name == "held_out.csv":
        return {
            (row["setting"], row["method"]): (float(row["clean"]), float(row["mean"]))
            for row in rows
        }
    clean, corrupted = defaultdict(list), defaultdict(list)
    several = len({row.get("bundle") for row in rows}) > 1
    for row in (row for row in rows if images in ("", row["n_images"])):
        name = (row["method"], row["bundle"]) if several else (row["method"],)
        if row["corruption"] == "none":
            clean[name].append(float(row["accuracy"]))
        elif row["corruption"] not in HELD_OUT:
            corrupted[name].append(float(row["accuracy"]))
    return {n: (mean(clean[n]), mean(corrupted[n])) for n in clean if n in corrupted}


def deviation(path: Path, method: str, bundle: str, images: str) -> str:
    """How far the mean over corruptions varies over seeds, in points; nothing of one seed."""
    seeds = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            name = row["method"], row["bundle"], row["n_images"]
            if name == (method, bundle, images) and row["corruption"] != "none":
                seeds[row["seed"]].append(float(row["accuracy"]))
    means = [mean(values) for values in seeds.values()]
    return f" ± {100 * stdev(means):.1f}" if len(means) > 1 else ""


@pytest.mark.parametrize("sources, table", TABLES)
def test_table_says_what_was_measured(sources, table):
    files = [measured(ROOT / source) for source in sources]
    keys = len(next(iter(files[0])))
    _, _, *rows = table.splitlines()
    assert rows
    for row in rows:
        cells = cells_of(row)
        expected = [value for found in files for value in found[tuple(cells[:keys])]]
        assert cells[-len(expected) :] == [f"{100 * value:.1f}" for value in expected], row


@pytest.mark.parametrize("source, table", ADAPTING)
def test_table_of_methods_says_what_was_measured(source, table):
    _, _, *rows = table.splitlines()
    assert rows
    for row in rows:
        method, bundle, images, *cells = cells_of(row)
        found = measured(ROOT / source, images)
        frozen, still, learned = (
            found.get((name, bundle)) for name in ("source", f"{method}-lr0", method)
        )
        statistics = found.get(("ptbn", bundle))
        expected = [*(frozen or ()), *(each and each[1] for each in (statistics, still)), *learned]
        words = [f"{100 * x:.1f}" if x is not None else "-" for x in expected]
        spread = deviation(ROOT / source, method, bundle, images)
        assert cells == [*words[:-1], words[-1] + spread], row


@pytest.mark.parametrize("source, table", BY_CORRUPTION)
def test_table_of_corruptions_says_what_was_measured(source, table):
    found = defaultdict(list)
    with (ROOT / source).open(newline="") as file:
        for row in csv.DictReader(file):
            name = row["method"], row["bundle"], row["n_images"], row["corruption"]
            found[name].append(float(row["accuracy"]))
    header, _, *rows = (cells_of(row) for row in table.splitlines())
    places = [{"clean": "none"}.get(name, name.replace(" ", "_")) for name in header[3:]]
    assert len(places) == 16
    for row in rows:
        assert row[3:] == [f"{100 * mean(found[(*row[:3], place)]):.1f}" for place in places], row


@pytest.mark.parametrize("source, table", CHANGED)
def test_table_of_changed_settings_says_what_was_measured(source, table):
    """Rows of method, steps and accuracy with the batch's statistics."""
    with (ROOT / source).open(newline="") as file:
        measured = {
            (row["method"], row["steps"]): f"{100 * float(row['accuracy']):.1f}"
            for row in csv.DictReader(file)
            if row["change"] == "batch statistics"
        }
    _, _, *rows = table.splitlines()
    assert rows
    for row in rows:
        method, steps, accuracy = cells_of(row)
        assert accuracy == measured[method, steps], row


@pytest.mark.parametrize("source, table", AGREEMENT)
def test_table_of_gradients_says_what_was_measured(source, table):
    """Rows of method, corruption, cosine and fall, each with its standard error."""
    with (ROOT / source).open(newline="") as file:
        measured = {
            (row["method"], row["corruption"]): [
                f"{float(row[name]):+.3f} ± {float(row[f'{name}_error']):.3f}"
                for name in ("cosine", "fall")
            ]
            for row in csv.DictReader(file)
        }
    _, _, *rows = table.splitlines()
    assert rows
    for row in rows:
        method, corruption, *cells = cells_of(row)
        assert cells == measured[method, corruption], row


@pytest.mark.parametrize("source, table", CLAIMS)
def test_table_of_claims_says_what_was_measured(source, table):
    """Rows of claim, place, images and points with their interval; what else follows is prose."""
    with (ROOT / source).open(newline="") as file:
        measured = {
            (row["claim"], row["where"]): [
                row["images"],
                "{:+.1f} [{:+.1f}, {:+.1f}]".format(
                    *(100 * float(row[name]) for name in ("difference", "low", "high"))
                ),
            ]
            for row in csv.DictReader(file)
        }
    _, _, *rows = table.splitlines()
    assert rows
    for row in rows:
        claim, where, *cells = cells_of(row)
        assert cells[:2] == measured[claim, where], row


@pytest.mark.parametrize("source, table", DRIFT)
def test_table_of_drift_says_what_was_measured(source, table):
    """Rows of method, statistics, steps; drift, and under how many corruptions it grew."""
    with (ROOT / source).open(newline="") as file:
        measured = {
            (row["method"], row["statistics"], row["steps"]): [
                f"{float(row['drift']):.2f}",
                row["worse"],
            ]
            for row in csv.DictReader(file)
            if row["drift"] != "nan"
        }
    _, _, *rows = table.splitlines()
    assert rows
    for row in rows:
        cells = cells_of(row)
        assert cells[3:] == measured[tuple(cells[:3])], row


@pytest.mark.parametrize("source, table", SEMANTICS)
def test_table_of_semantics_says_what_was_measured(source, table):
    """Rows of method, part and steps; index and drift are means over the corruptions."""
    record = json.loads((ROOT / source).read_text())
    found = defaultdict(list)
    for values in record["rows"]:
        row = dict(zip(record["columns"], values))
        name = (row["method"], row["part"], str(row["steps"]))
        found[name].append((row["davies_bouldin"], row["drift"]))
    _, _, *rows = table.splitlines()
    assert rows
    for row in rows:
        *name, index, drift = cells_of(row)
        indices, drifts = zip(*found[tuple(name)])
        assert index == f"{mean(indices):.2f}", row
        assert drift == (f"{mean(drifts):.1f}" if None not in drifts else "-"), row


def test_pages_have_their_tables():
    assert ADAPTING and BY_CORRUPTION and CHANGED and AGREEMENT and CLAIMS and SEMANTICS and DRIFT
    assert len(MARKED.findall((ROOT / "README.md").read_text(encoding="utf-8"))) >= 1
