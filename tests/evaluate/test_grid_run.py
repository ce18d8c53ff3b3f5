import csv
import json
from dataclasses import replace
from functools import partial

import pytest

from acclimate.errors import InputError
from acclimate.evaluate import grid_run as module
from acclimate.evaluate import workplace
from acclimate.evaluate.grid_run import GridRun, plan, run_grid
from acclimate.evaluate.results import TIMINGS
from acclimate.evaluate.store import Store
from acclimate.evaluate.task import Grid
from acclimate.evaluate.variant import Variant
from acclimate.methods.changes import settings_of_record
from acclimate.storage.atomic import only_writer

GRID = Grid(("contrast", "none"), methods=("ptbn", "source"), batch=10)
STILL = "cta:update.learning_rate=0"


@pytest.fixture(scope="module")
def grid_run(saved, data):
    return GridRun(GRID, {"b": saved}, (lambda: data,))


def rows(out):
    """The lines of results.csv without what differs from run to run."""
    with (out / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    return [{name: row[name] for name in row if name not in TIMINGS} for row in lines]


def never(*arguments, **named):
    raise AssertionError("measured again")


def test_a_folder_holds_all_that_it_should(grid_run, tmp_path, monkeypatch):
    measured, errors = run_grid(grid_run, tmp_path)
    cells = [each.cell for each in measured]
    assert errors == []
    assert [(str(cell.variant), cell.corruption) for cell in cells] == [
        ("ptbn", "contrast"), ("ptbn", "none"), ("source", "contrast"), ("source", "none"),
    ]  # fmt: skip
    assert all(cell.answers is not None for cell in cells)
    assert {path.name for path in tmp_path.iterdir()} == {
        "cells.sqlite", "results.csv", "manifest.json",
    }  # fmt: skip
    found = rows(tmp_path)
    assert [(row["method"], row["corruption"]) for row in found] == [
        ("source", "none"), ("source", "contrast"), ("ptbn", "none"), ("ptbn", "contrast"),
    ]  # fmt: skip
    measured = {(str(cell.variant), cell.corruption): cell.accuracy for cell in cells}
    assert all(float(r["accuracy"]) == measured[r["method"], r["corruption"]] for r in found)
    assert all(float(row["forward_equivalents"]) >= 1 for row in found)
    monkeypatch.setattr(workplace, "measure", never)
    monkeypatch.setattr(workplace, "measure_speed", never)
    again, _ = run_grid(grid_run, tmp_path)
    assert [each.cell.accuracy for each in again] == [cell.accuracy for cell in cells]
    assert rows(tmp_path) == found


def test_the_manifest_says_how_to_run_it_again(grid_run, tmp_path):
    run_grid(grid_run, tmp_path)
    run_grid(grid_run, tmp_path)
    other = replace(grid_run, grid=replace(GRID, corruptions=("none",), methods=(STILL,)))
    run_grid(other, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    first, second = manifest["grids"]
    assert (first["corruptions"], first["dataset"], first["images"]) == (
        ["contrast", "none"],
        "tiny",
        24,
    )
    assert second["methods"] == [STILL]
    assert set(manifest["methods"]) == {"source", "ptbn", STILL}
    assert settings_of_record(manifest["methods"][STILL]) == Variant.parse(STILL).settings
    assert manifest["bundles"]["b"]["recipe"] == "cta"
    assert len(manifest["bundles"]["b"]["weights_sha256"]) == 64
    assert manifest["machine"]["torch"]


def test_grids_of_a_folder_are_one_file_whatever_came_first(grid_run, tmp_path):
    other = replace(grid_run, grid=replace(GRID, orders=("continual",), seeds=(1, 0), batch=7))
    for out, order in (("one", (grid_run, other)), ("two", (other, grid_run))):
        for part in order:
            run_grid(part, tmp_path / out)
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    assert len(rows(tmp_path / "one")) == 4 + 4
    batches = [(row["order"], row["batch"]) for row in rows(tmp_path / "one")]
    assert set(batches) == {("shuffled", "10"), ("continual", "7")}


def test_a_plan_measures_speeds_alone(grid_run, tmp_path, monkeypatch):
    monkeypatch.setattr(workplace, "measure", never)
    estimates = plan(grid_run, tmp_path)
    assert [(str(row.variant), row.tasks, row.done, row.images) for row in estimates] == [
        ("ptbn", 2, 0, 48), ("source", 2, 0, 48),
    ]  # fmt: skip
    assert all(0 < row.seconds < 60 for row in estimates)
    assert not (tmp_path / "results.csv").exists()
    monkeypatch.undo()
    monkeypatch.setattr(workplace, "measure_speed", never)
    run_grid(grid_run, tmp_path)
    assert [(row.done, row.images, row.seconds) for row in plan(grid_run, tmp_path)] == [
        (2, 0, 0)
    ] * 2


def test_an_interrupted_run_leaves_its_results(grid_run, tmp_path):
    def stop(what, done, *rest):
        if what == "adapt and answer" and done:
            raise KeyboardInterrupt

    speeds = {"seconds_per_image": 1.0}
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        known = workplace.measure_speed
        patch.setattr(workplace, "measure_speed", lambda *given: replace(known(*given), **speeds))
        run_grid(grid_run, tmp_path, progress=stop)
    assert len(rows(tmp_path)) == 1
    assert (tmp_path / "manifest.json").exists()


def test_a_killed_run_s_cells_have_their_grid(grid_run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "run", never)
    monkeypatch.setattr(module, "write_results", never)  # nothing is done afterwards
    with pytest.raises(AssertionError):
        run_grid(grid_run, tmp_path)
    (grid,) = json.loads((tmp_path / "manifest.json").read_text())["grids"]
    assert grid["seeds"] == list(GRID.seeds)


def test_only_failures_of_this_bench_are_told(grid_run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(workplace, "measure", partial(_fail, "ptbn", workplace.measure))
        measured, errors = run_grid(grid_run, tmp_path)
    assert {str(each.cell.variant) for each in measured} == {"source"}
    assert [reason for _, reason in errors] == ["RuntimeError: no luck"] * 2
    assert {row["method"] for row in rows(tmp_path)} == {"source"}
    frozen = replace(grid_run, grid=replace(GRID, methods=("source",)))
    assert run_grid(frozen, tmp_path)[1] == []
    assert run_grid(grid_run, tmp_path)[1] == []


def _fail(which, measure, bundle, variant, *arguments, **named):
    if str(variant) == which:
        raise RuntimeError("no luck")
    return measure(bundle, variant, *arguments, **named)


def test_cells_of_methods_that_this_program_does_not_know_come_last(grid_run, tmp_path):
    measured, _ = run_grid(grid_run, tmp_path)
    task, cell = measured[0]
    mine = {"variant": Variant("mine")}
    with Store(tmp_path / "cells.sqlite") as store:
        store.add(replace(task, **mine), [replace(cell, **mine)], "c")
    run_grid(grid_run, tmp_path)
    assert [row["method"] for row in rows(tmp_path)] == ["source"] * 2 + ["ptbn"] * 2 + ["mine"]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"grids": 1, "bundles": {}, "methods": {}}'])
def test_a_damaged_manifest_is_refused_before_anything_is_measured(
    text, grid_run, tmp_path, monkeypatch
):
    (tmp_path / "manifest.json").write_text(text)
    monkeypatch.setattr(workplace, "measure_speed", never)
    with pytest.raises(InputError, match=r"manifest\.json is damaged; delete it"):
        run_grid(grid_run, tmp_path)


@pytest.mark.parametrize("do", [plan, run_grid])
def test_one_run_at_a_time(do, grid_run, tmp_path):
    with only_writer(tmp_path), pytest.raises(InputError, match="another run is writing"):
        do(grid_run, tmp_path)
    assert not list(tmp_path.iterdir())
