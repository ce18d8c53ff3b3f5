import csv
from dataclasses import replace

import pytest

from acclimate.errors import InputError
from acclimate.evaluate.cell import Cell
from acclimate.evaluate.results import COLUMNS, read_results, rows_of, write_results
from acclimate.evaluate.variant import Variant

STILL = Variant("cta").without_steps
CELL = Cell(
    variant=Variant("cta"), bundle="my, bundle", dataset="my, set", corruption="fog", severity=5,
    order="shuffled", seed=3, batch=64, accuracy=0.1 + 0.2, ece=1 / 3, nll=2 / 3, n_images=7,
    steps=20, seconds=1.25, images_per_second=5.6, peak_memory=123, refused_steps=2,
    forward_equivalents=4.5, card="0123456789ab", window=3, curve=(0.2, 0.4, 0.4, 0.1 + 0.2),
)  # fmt: skip
FROZEN = replace(CELL, variant=Variant("source"), accuracy=0.6, steps=0, curve=())


def test_the_file_reads_back_as_the_cells(tmp_path):
    cells = [
        CELL,
        replace(CELL, variant=Variant("source"), corruption="none", severity=0, accuracy=1.0),
    ]
    write_results(cells, tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert ",".join(rows[0]) == (
        "method,bundle,dataset,corruption,severity,domain,order,seed,batch,window,accuracy,ece,nll,n_images,"
        "steps,forward_equivalents,seconds,images_per_second,peak_memory,refused_steps,"
        "error,corruption_error,oracle_accuracy,oracle_steps,card"
    )
    for row, cell in zip(rows, cells, strict=True):
        names = [name for name in row if hasattr(cell, name)]
        assert len(names) == len(COLUMNS) - 5
        assert row["method"] == str(cell.variant)
        assert {name: type(getattr(cell, name))(row[name]) for name in names} == {
            name: getattr(cell, name) for name in names
        }


def test_cells_read_back_without_their_curves(tmp_path):
    growing = replace(CELL, corruption="gaussian_noise", severity=5.0, order="growing-noise")
    uncounted = replace(CELL, forward_equivalents=float("nan"))
    write_results([CELL, FROZEN, growing, uncounted], tmp_path / "results.csv")
    found = read_results(tmp_path / "results.csv")
    assert found[:3] == [replace(cell, curve=()) for cell in (CELL, FROZEN, growing)]
    assert [type(cell.severity) for cell in found] == [int, int, float, int]
    assert found[3].forward_equivalents != found[3].forward_equivalents
    assert all(cell.answers is None for cell in found)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("accuracy", "share"), ("0.30000000000000004", "3"), ("64", "many"),
        (",fog,5,", "\n"),
    ],
    ids=["no accuracies", "an impossible accuracy", "no number", "half a line"],
)  # fmt: skip
def test_another_file_is_refused(tmp_path, old, new):
    path = tmp_path / "results.csv"
    write_results([CELL], path)
    path.write_bytes(path.read_text().replace(old, new).encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"results.csv is damaged"):
        read_results(path)


def test_a_cell_of_a_domain_has_neither_corruption_nor_severity(tmp_path):
    cell = replace(CELL, corruption="", severity=0, domain="fog/5", curve=())
    write_results([cell], tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["corruption"], row["severity"], row["domain"]) == ("", "", "fog/5")
    assert read_results(tmp_path / "results.csv") == [cell]


def test_a_file_of_before_there_were_domains_is_read(tmp_path):
    path = tmp_path / "results.csv"
    write_results([CELL, FROZEN], path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(
            file, [name for name in COLUMNS if name != "domain"], extrasaction="ignore"
        )
        writer.writeheader()
        writer.writerows(rows)
    assert read_results(path) == [replace(cell, curve=()) for cell in (CELL, FROZEN)]


def test_a_variant_with_several_changes_is_one_value_of_the_file(tmp_path):
    cell = replace(CELL, variant=Variant.parse("cta:steps=3,update.learning_rate=0"), curve=())
    write_results([cell], tmp_path / "results.csv")
    assert read_results(tmp_path / "results.csv") == [cell]


def test_a_file_that_a_spreadsheet_saved_is_read(tmp_path):
    path = tmp_path / "results.csv"
    write_results([CELL, FROZEN], path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_results(path) == [replace(cell, curve=()) for cell in (CELL, FROZEN)]


def test_no_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"there is no .*results.csv; make it with"):
        read_results(tmp_path / "results.csv")


def test_what_is_unknown_is_empty(tmp_path):
    bare = replace(CELL, curve=(), forward_equivalents=float("nan"))
    write_results([bare], tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    unknown = {
        "domain",
        "forward_equivalents",
        "corruption_error",
        "oracle_accuracy",
        "oracle_steps",
    }
    assert {name for name, text in row.items() if not text} == unknown


def test_corruption_errors_are_relative_to_the_frozen_classifier_on_the_same_images():
    places = [
        {"corruption": "snow"}, {"severity": 4}, {"order": "mixed"}, {"seed": 1}, {"dataset": "x"},
        {"n_images": 8}, {"domain": "fog/5"},
    ]  # fmt: skip
    elsewhere = [replace(FROZEN, accuracy=0.1, **place) for place in places]
    cells = [*elsewhere, CELL, FROZEN, replace(CELL, variant=STILL, accuracy=0.8, batch=32)]
    errors = [row["corruption_error"] for row in rows_of(cells)]
    assert errors == [1.0] * 7 + [pytest.approx(0.7 / 0.4), 1.0, pytest.approx(0.5)]


def test_the_baseline_is_the_bundle_s_own():
    other = replace(FROZEN, bundle="a bundle", accuracy=0.2)
    for cells in ([CELL, FROZEN, other], [CELL, other, FROZEN]):
        row = next(rows_of(cells))
        assert row["corruption_error"] == pytest.approx(0.7 / 0.4)
    row = next(rows_of([CELL, other]))
    assert row["corruption_error"] == ""


def test_a_frozen_classifier_without_errors_is_no_baseline():
    row, _ = rows_of([CELL, replace(FROZEN, accuracy=1.0)])
    assert row["corruption_error"] == ""


def test_the_oracle_is_the_first_best_of_the_curve():
    (row,) = rows_of([CELL])
    assert (row["oracle_accuracy"], row["oracle_steps"]) == (0.4, 1)
    assert row["error"] == 1 - CELL.accuracy


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"results\.csv"):
        write_results([CELL], tmp_path / "file" / "results.csv")
