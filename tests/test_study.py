import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image
from rich.console import Console

from acclimate import quickstart
from acclimate import study as module
from acclimate.adapt import Adapter
from acclimate.bundle import Bundle
from acclimate.data import LabelledImages
from acclimate.errors import InputError
from acclimate.evaluate import workplace
from acclimate.evaluate.store import Store
from acclimate.evaluate.variant import Variant
from acclimate.guard import Guard
from acclimate.quickstart import HELD_OUT, REPORTED, STUDY
from acclimate.report.grid import report_grid
from acclimate.report.measured import read_grid
from acclimate.runtime.workers import here
from acclimate.source.loop import Training
from acclimate.source.presets import PRESETS
from acclimate.source.trust import TOLERANCE
from acclimate.study import ROWS, Study, run_study

STILL, OURS_STILL = (str(Variant(name).without_steps) for name in ("cta", "acclimate"))
SHORT = Training(epochs=1, batch=32, warm_up=0.0)
STUDY_OF_TWO = Study(
    title="a small study",
    model="acclimate:resnet8-w4",
    settings=replace(PRESETS["small"], supervised=SHORT, contrastive=SHORT, align=SHORT),
    corruptions=("contrast", "saturate"),
    batch=32,
)


@pytest.fixture(scope="module")
def data(images):
    def named(name, part):
        labels = (part.float().mean((1, 2, 3)) > 127).long()
        return LabelledImages(part, labels, ("dark", "light"), name)

    return named("tiny", images[:96]), named("tiny", images[96:])


@pytest.fixture(scope="module")
def run(few_trials, data):
    def run(out, study=STUDY_OF_TWO, data=data, **named):
        said = io.StringIO()
        console = Console(file=said, width=200)
        measured = run_study(study, *data, out, command="acclimate study", console=console, **named)
        return [each.cell for each in measured], said.getvalue()

    return run


@pytest.fixture(scope="module")
def done(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    return out, *run(out)


def never(*arguments, **named):
    raise AssertionError("done again")


def test_a_study_leaves_all_that_it_should(done):
    out, cells, said = done
    assert json.loads((out / "study.json").read_text())["title"] == "a small study"
    bundle = Bundle.load(out / "bundle")
    assert bundle.classes == ("dark", "light")
    assert Guard(Adapter(bundle, "acclimate"), bundle).mode == "bounded"
    with Image.open(out / "picture.png") as picture:
        assert min(picture.size) > 200
    page = (out / "report.html").read_text()
    assert "a small study" in page
    assert "acclimate study" in page
    assert "What each part adds" in page and "Samples" in page
    assert "is done: open" in " ".join(said.split())
    assert all(name in said for name in ROWS) and STILL not in said
    assert len(cells) == 9 * 3
    assert {path.name for path in out.iterdir() if not path.name.startswith("cells.sqlite-")} == {
        "bundle", "cells.sqlite", "manifest.json", "picture.png", "report.html", "results.csv",
        "study.json",
    }  # fmt: skip


def test_results_are_the_cells(done):
    out, cells, _ = done
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    places = {(row["method"], row["corruption"], row["severity"]): row for row in rows}
    corruptions = (("none", "0"), ("contrast", "5"), ("saturate", "5"))
    assert set(places) == {(m, *c) for m in (*ROWS, STILL, OURS_STILL) for c in corruptions}
    for cell in cells:
        row = places[str(cell.variant), cell.corruption, str(cell.severity)]
        assert float(row["accuracy"]) == cell.accuracy
        assert int(row["n_images"]) == 64


def test_the_folder_is_one_of_a_grid(done, tmp_path):
    out, cells, _ = done
    measured, manifest = read_grid(out)
    assert [each.cell for each in measured] == cells
    assert [grid["corruptions"] for grid in manifest["grids"]] == [
        ["contrast", "saturate"],
        ["none"],
    ]
    page = report_grid(out, out=tmp_path / "page.html").read_text()
    assert "What each part adds" in page


def test_what_the_steps_add_is_told_apart_from_statistics(done):
    _, cells, said = done
    accuracy = {str(c.variant): c.accuracy for c in cells if c.corruption == "contrast"}
    assert accuracy[STILL] == accuracy["aligned-bn"]
    steps = 100 * (accuracy["cta"] - accuracy[STILL])
    assert f"cta: gradient steps: {steps:+.2f} points" in said
    steps = 100 * (accuracy["acclimate"] - accuracy[OURS_STILL])
    assert f"acclimate: gradient steps: {steps:+.2f} points" in said


def test_a_second_run_says_done_and_does_nothing(done, run, monkeypatch):
    out, cells, _ = done
    # SQLite touches what stands beside its file even when it only reads.
    parts = [path for path in out.rglob("*") if not path.name.startswith("cells.sqlite-")]
    before = {path: path.stat().st_mtime_ns for path in parts}
    monkeypatch.setattr(module, "train_bundle", never)
    monkeypatch.setattr(workplace, "measure", never)
    again, said = run(out)
    assert again == cells
    assert "was done already" in said
    assert {path: path.stat().st_mtime_ns for path in parts} == before


def test_a_killed_study_goes_on_where_it_was(done, run, monkeypatch):
    out, cells, _ = done
    (out / "report.html").rename(out / "old.html")
    with Store(out / "cells.sqlite") as store:
        lost = (
            "json_extract(task, '$.variant', '$.shifts[0].corruption') = '[\"ptbn\",\"contrast\"]'"
        )
        assert store._base.execute(f"DELETE FROM tasks WHERE {lost}").rowcount == 1
    measured, original = [], workplace.measure
    monkeypatch.setattr(module, "train_bundle", never)
    monkeypatch.setattr(
        workplace, "measure", lambda *a, **n: measured.append(str(a[1])) or original(*a, **n)
    )
    given = []

    def engine(job, tasks):
        given.extend(str(task.variant) for task in tasks)
        return here(job, tasks)

    again, _ = run(out, engine=engine)
    assert measured == given == ["ptbn"]
    assert len(again) == len(cells)
    for one, other in zip(again, cells):
        assert (one.answers.predictions == other.answers.predictions).all()
    assert (out / "report.html").exists()
    (out / "old.html").unlink()
    done[1][:] = again


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"severity": 4}, {"batch": 16}, {"model": "acclimate:resnet8-w8"}, "fewer"],
    ids=str,
)
def test_a_folder_of_another_study_is_refused(done, run, data, changes):
    out = done[0]
    study = STUDY_OF_TWO
    if changes == "fewer":
        train, test = data
        data = train, replace(test, images=test.images[:32], labels=test.labels[:32])
    else:
        study = replace(study, **changes)
    with pytest.raises(InputError, match="other settings"):
        run(out, study, data)


def test_folders_with_something_else_are_refused(run, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="something else"):
        run(tmp_path)
    with pytest.raises(InputError, match="something else"):
        run(tmp_path / "letter.txt")
    with pytest.raises(InputError, match="cannot write"):
        run(tmp_path / "letter.txt" / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_an_empty_folder_may_be_used(data, tmp_path, monkeypatch):
    class EnoughError(Exception):
        pass

    def stop(*arguments):
        raise EnoughError

    monkeypatch.setattr(module, "train_bundle", stop)
    with pytest.raises(EnoughError):
        run_study(STUDY_OF_TWO, *data, tmp_path, command="", console=Console(file=io.StringIO()))
    assert (tmp_path / "study.json").exists()


def test_the_quickstart_answers_for_the_same_images_clean_and_corrupted(monkeypatch, tmp_path):
    given = {}

    def spy(study, train, test, out, **named):
        given.update(study=study, train=train, test=test, **named)
        return []

    monkeypatch.setattr(quickstart, "run_study", spy)
    quickstart.quickstart(tmp_path, Console(file=io.StringIO()), seed=3, images=120)
    assert (given["study"].seed, given["study"].images) == (3, 120)
    assert (len(given["train"].images), len(given["test"].images)) == (10_000, 120)
    assert given["engine"] is not here


def test_settings_are_never_chosen_on_what_is_reported():
    assert not set(REPORTED) & set(HELD_OUT)
    assert set(HELD_OUT) == {"speckle_noise", "saturate"}
    assert STUDY.severity == 5


@pytest.mark.slow
def test_the_real_quickstart(tmp_path):
    """Whatever machine: adapting must be worth having, and cost little on clean images.

    No more than a bundle's trust in batches may cost. With more images than usual, for 200 tell a
    point apart from nothing in clear cases only.
    """
    command = [sys.executable, "-c", "from acclimate.cli import main; main()", "quickstart"]
    out = tmp_path / "quickstart"
    command += ["--out", str(out), "--images", "1000"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=3600)
    assert done.returncode == 0, done.stderr
    accuracy = {}
    with (out / "results.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            accuracy[row["method"], row["corruption"]] = float(row["accuracy"])
    mean = {
        name: torch.tensor([accuracy[name, corruption] for corruption in REPORTED]).mean().item()
        for name in ROWS
    }
    assert min(mean["cta"], mean["acclimate"]) >= mean["source"] + 0.10
    assert mean["cta"] >= max(mean.values()) - 0.003
    for name in ("cta", "acclimate"):
        assert accuracy[name, "none"] >= accuracy["source", "none"] - TOLERANCE, name
