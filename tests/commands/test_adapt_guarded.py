"""``acclimate adapt`` with a guard: when there is one, what is written and said, and resumption."""

import csv
import json
import os
import signal

import numpy as np
import pytest
from PIL import Image

from acclimate.adapt import Adapter
from acclimate.adapt.answers_file import AnswersFile
from acclimate.adapt.folder import adapt_folder
from acclimate.cli import main
from acclimate.errors import InputError, Interrupted
from acclimate.guard import Guard, measure_guard
from acclimate.guard import state as states


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """30 images, of which one is black and one is damaged."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number in range(30):
        pixels = generator.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels * (number != 7)).save(folder / f"{number:02}.png")
    (folder / "05.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def calibrated(few_trials, bundle, images):
    return measure_guard(bundle, images[:64])


@pytest.fixture(scope="module")
def guarded(calibrated, tmp_path_factory):
    """The folder of a bundle that can be guarded."""
    path = tmp_path_factory.mktemp("guarded") / "bundle"
    calibrated.save(path)
    return path


@pytest.fixture
def adapt(photos, tmp_path, capsys):
    """Runs the command; gives its rows, and what it said."""

    def run(bundle, *options, method="tent", out="answers.csv"):
        path = tmp_path / out
        given = [str(bundle), str(photos), "--out", str(path), "--method", method, "--batch", "8"]
        capsys.readouterr()
        main(["adapt", *given, "--device", "cpu", *options])
        with path.open(newline="") as file:
            return list(csv.DictReader(file)), " ".join(" ".join(capsys.readouterr()).split())

    return run


def test_methods_that_remember_are_guarded_where_they_can_be(adapt, guarded, saved):
    for name in ("tent", "acclimate"):
        assert "right answers by estimate" in adapt(guarded, method=name)[1]
        assert "acclimate measure BUNDLE SOURCE_IMAGES" in adapt(saved, method=name)[1]
    for bundle in (guarded, saved):  # what forgets each batch needs no guard, nor a word about it
        said = adapt(bundle, method="ptbn")[1]
        assert "no guard" not in said and "by estimate" not in said
    assert "right answers by estimate" in adapt(guarded, "--guard", "bounded", method="ptbn")[1]
    assert "no guard" not in adapt(saved, "--guard", "off")[1]


def test_single_images_that_no_adapted_model_sees_are_said_to_be_answered_frozen(adapt, guarded):
    alone, off = ("--batch", "1"), ("--batch", "1", "--guard", "off")
    assert "the guard gives the frozen classifier's answers alone" in adapt(guarded, *alone)[1]
    assert "most answers will be wrong" in adapt(guarded, *off)[1]


def test_off_is_what_it_was_before_there_were_guards(adapt, guarded, saved):
    assert adapt(guarded, "--guard", "off")[0] == adapt(saved, out="other.csv")[0]


def test_in_the_shadow_nothing_is_changed(adapt, guarded):
    rows, said = adapt(guarded, "--guard", "shadow")
    answered = [row for row in rows if not row["skipped"]]
    assert len(answered) == 29
    for row in answered:
        assert row["prediction"] == row["frozen_prediction"]
        assert row["confidence"] == row["frozen_confidence"]
    assert "29 answers, 0 of them changed" in said


def test_the_frozen_classifier_answers_once(adapt, guarded, monkeypatch):
    asked, call = [], Adapter.__call__

    def spy(self, images):
        asked.append(self.name)
        return call(self, images)

    monkeypatch.setattr(Adapter, "__call__", spy)
    adapt(guarded)
    assert asked.count("source") == asked.count("tent") == 4


def test_each_decision_is_logged(adapt, guarded, tmp_path):
    log = tmp_path / "log.jsonl"
    adapt(guarded, "--guard-log", str(log))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert sum(line["images"] for line in lines) == 29
    assert [line["first"] for line in lines] == [0, 7, 15, 23]
    assert all(line["reason"] for line in lines)


def test_options_are_the_guards_rules(adapt, guarded, monkeypatch):
    rules, made = [], Guard.__init__

    def spy(self, *given, **named):
        rules.append(named["rules"])
        made(self, *given, **named)

    monkeypatch.setattr(Guard, "__init__", spy)
    adapt(guarded)
    adapt(guarded, "--at-change", "come-back")
    adapt(guarded, "--class-shares", "as-source")
    assert [each.at_change for each in rules] == ["go-on", "come-back", "go-on"]
    assert [each.class_shares for each in rules] == ["any", "any", "as-source"]


def test_folders_named_by_class_tell_it_nothing(guarded, photos, tmp_path):
    """The same images, in the same order, in folders of other names."""
    found = []
    for names in (("bear", "cat"), ("0", "1")):
        folder = tmp_path / names[0]
        for number, path in enumerate(sorted(photos.iterdir())):
            place = folder / names[number >= 12]
            place.mkdir(parents=True, exist_ok=True)
            (place / path.name).write_bytes(path.read_bytes())
        out = tmp_path / f"{names[0]}.csv"
        main(["adapt", str(guarded), str(folder), "--out", str(out), "--method", "tent"])
        with out.open(newline="") as file:
            found.append([{**row, "path": ""} for row in csv.DictReader(file)])
    assert found[0] == found[1] and len(found[0]) == 30


def test_what_cannot_be_is_refused(guarded, saved, photos, tmp_path, capsys):
    out = ["--out", str(tmp_path / "x.csv"), "--method", "tent"]
    for bundle, options, reason in (
        (saved, ["--guard", "bounded"], "acclimate measure BUNDLE IMAGES"),
        (guarded, ["--guard", "off", "--guard-log", str(tmp_path / "log")], "the log of a guard"),
        (saved, ["--guard-log", str(tmp_path / "log")], "the log of a guard"),
        (guarded, ["--guard-log", out[1]], "--out and --guard-log are the same file"),
        (guarded, ["--guard", "off", "--at-change", "restart"], "--at-change needs a guard"),
        (
            guarded,
            ["--guard", "off", "--class-shares", "as-source"],
            "tells a guard",
        ),
        (guarded, ["--at-change", "come"], "'go-on', 'restart', 'come-back'"),
        (guarded, ["--guard-log", "-"], "cannot be written to standard output"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["adapt", str(bundle), str(photos), *out, *options])
        assert stopped.value.code == 2
        assert reason in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def run(bundle, photos, out, mode="bounded", stop_after=None):
    """Answer a folder into a file, as if Ctrl-C came; also the lines that the guard noted."""
    made = []

    def guard(adapter):
        made.append(Guard(adapter, bundle, mode))
        return made[0]

    options = {"batch": 4, "method": "tent", "guard": guard if mode else None, "device": "cpu"}
    with AnswersFile(out) as file:
        for number, answer in enumerate(adapt_folder(bundle, photos, checkpoints=file, **options)):
            file.write(answer)
            if number == stop_after:
                os.kill(os.getpid(), signal.SIGINT)
        file.finish()
    return [{k: v for k, v in line.items() if k != "time"} for line in made[0].decisions]


@pytest.mark.parametrize("stop", [0, 13, 29])
def test_an_interrupted_run_goes_on_with_the_same_guard(
    calibrated, photos, tmp_path, monkeypatch, stop
):
    monkeypatch.setattr(states, "GOOD_EVERY", 8)
    expected = run(calibrated, photos, tmp_path / "whole.csv")
    out = tmp_path / "out.csv"
    with pytest.raises(Interrupted):
        run(calibrated, photos, out, stop_after=stop)
    lines = run(calibrated, photos, out)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert lines == expected[len(expected) - len(lines) :] and len(lines) < len(expected)


@pytest.mark.parametrize("modes", [("bounded", "shadow"), ("bounded", None), (None, "bounded")])
def test_a_run_is_not_resumed_with_another_guard(calibrated, photos, tmp_path, modes):
    out = tmp_path / "out.csv"
    first, second = modes
    with pytest.raises(Interrupted):
        run(calibrated, photos, out, first, stop_after=9)
    with pytest.raises(InputError, match="a run with other guard"):
        run(calibrated, photos, out, second)
