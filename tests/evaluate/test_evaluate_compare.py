from dataclasses import replace

import pytest
import torch
from PIL import Image

from acclimate.data import LabelledImages
from acclimate.errors import InputError
from acclimate.evaluate import compare as module
from acclimate.evaluate.compare import compare, read_cell
from acclimate.evaluate.measure import settings_of

METHODS = ("source", "ptbn", "cta")
CORRUPTIONS = (("none", 0), ("contrast", 5))
PAIRS = [(m, c) for m in METHODS for c, _ in CORRUPTIONS]


@pytest.fixture
def data(images):
    return LabelledImages(images[:24], torch.arange(24) % 4, ("a", "b", "c", "d"), "tiny")


@pytest.fixture
def run(saved, data, tmp_path):
    def run(**changes):
        options = {"methods": METHODS, "corruptions": CORRUPTIONS, "folder": tmp_path / "cells"}
        return compare(saved, **{"data": data} | options | changes)

    return run


def never(*arguments, **named):
    raise AssertionError("measured again")


def test_a_cell_for_each_pair_method_by_method(run):
    cells = run()
    assert [(cell.method, cell.corruption) for cell in cells] == PAIRS
    assert [len(cell.curve) for cell in cells] == [0, 0, 0, 0, *2 * [settings_of("cta").steps + 1]]


def test_a_finished_grid_measures_nothing(run, monkeypatch):
    cells = run()
    monkeypatch.setattr(module, "measure", never)
    assert run() == cells


def test_a_killed_grid_resumes(run, monkeypatch, tmp_path):
    measured = []
    original = module.measure

    def three_times(bundle, name, data, corruption, *rest, **named):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append((name, corruption))
        return original(bundle, name, data, corruption, *rest, **named)

    monkeypatch.setattr(module, "measure", three_times)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(list((tmp_path / "cells").iterdir())) == 3
    kept = measured.copy()
    measured.clear()
    cells = run()
    assert kept + measured == PAIRS
    monkeypatch.undo()
    whole = run(folder=tmp_path / "others")
    assert [c.predictions for c in whole] == [c.predictions for c in cells]
    assert [c.curve for c in whole] == [c.curve for c in cells]


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"batch": 12}, {"data": "fewer"}, {"data": "named"}, {"settings": "other"}],
    ids=str,
)
def test_what_determines_a_result_is_part_of_its_key(run, data, monkeypatch, changes):
    run(methods=("cta",))
    if changes.get("data") == "fewer":
        changes = {"data": replace(data, images=data.images[:20], labels=data.labels[:20])}
    if changes.get("data") == "named":
        changes = {"data": replace(data, name="other")}
    if "settings" in changes:
        changes = {}
        original = module.settings_of
        monkeypatch.setattr(
            module, "settings_of", lambda name: replace(original(name), temperature=0.3)
        )
    monkeypatch.setattr(module, "measure", never)
    with pytest.raises(AssertionError, match="measured again"):
        run(methods=("cta",), **changes)


def test_frost_of_other_pictures_is_another_cell(run, tmp_path, monkeypatch):
    frost = {"methods": ("source",), "corruptions": (("frost", 5),)}
    run(**frost)
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (60, 40), "white").save(tmp_path / "pictures" / "white.png")
    monkeypatch.setenv("ACCLIMATE_FROST", str(tmp_path / "pictures"))
    run(**frost)
    assert len(list((tmp_path / "cells").iterdir())) == 2


def test_progress_counts_kept_cells_too(run):
    told = []
    run(progress=lambda *event: told.append(event[1:3]))
    assert told[-1] == (144, 144)
    told.clear()
    run(progress=lambda *event: told.append(event[1:3]))
    assert told == [(24 * n, 144) for n in range(1, 7)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace("accuracy", "akkuracy"),
        lambda text: text.replace('"curve"', '"kurve"'),
    ],
    ids=["half", "empty", "list", "other field", "no curve"],
)
def test_a_damaged_cell_is_refused(run, tmp_path, damage):
    run(methods=("source",), corruptions=(("none", 0),))
    (path,) = (tmp_path / "cells").iterdir()
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError, match="is damaged; delete it and rerun"):
        run()


def test_a_cell_of_other_bytes_is_refused(tmp_path):
    (tmp_path / "cell.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="damaged"):
        read_cell(tmp_path / "cell.json")
    assert read_cell(tmp_path / "none.json") is None
