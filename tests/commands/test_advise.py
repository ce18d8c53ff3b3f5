"""``acclimate advise`` from end to end, and ``--settings`` of the commands that take its file."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small_guard import calibrate_on_few

from acclimate import cli
from acclimate.advise import plan
from acclimate.advise.settings_file import load, save
from acclimate.bundle_record import read_record
from acclimate.data import load as load_labelled

SHORT = ("--methods", "bn-adapt", "tent", "--batch", "16", "--minutes", "0.01", "--device", "cpu")


@pytest.fixture
def less(monkeypatch):
    calibrate_on_few(monkeypatch)
    monkeypatch.setattr(plan, "MOST", 64)


@pytest.fixture
def source(images, tmp_path):
    path = tmp_path / "source.npy"
    np.save(path, images.permute(0, 2, 3, 1).numpy())
    return path


def run(*arguments):
    cli.main([str(each) for each in arguments])


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("acclimate: ") and "\n" not in said
    return said


@pytest.mark.usefixtures("less")
def test_advice_ends_in_a_file_and_a_page_that_the_others_take(
    saved, source, data, tmp_path, capsys
):
    out, page = tmp_path / "advice.json", tmp_path / "advice.html"
    target = (data / "train", "--source", source, "--out", out, "--page", page)
    run("advise", saved, *target, *SHORT)
    said = capsys.readouterr().out
    assert "this takes about" in said and str(out) in said and "bn-adapt" in said
    assert "on your images" in said and "…" not in said  # whole, although this is 80 wide
    assert "<h1>Advice for bundle</h1>" in page.read_text()
    found = load(out)
    found.check(saved)
    assert found.batch == 16 and json.loads(out.read_text())["advice"]["target_images"] == 40
    run("adapt", saved, data / "train", "--out", tmp_path / "x.csv", "--settings", out)
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 41


@pytest.mark.usefixtures("less")
def test_scrambled_labels_change_what_they_say_and_not_the_advice(
    saved, source, images, tmp_path, capsys, monkeypatch
):
    for place, image in enumerate(images[:40]):
        path = tmp_path / "test" / ("ant", "bee", "cat", "dog")[place // 10] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    said, written = [], []
    for labels in ("true", "scrambled"):
        if labels == "scrambled":
            monkeypatch.setattr("acclimate.data.load", _scrambled)
        out = tmp_path / f"{labels}.json"
        run("advise", saved, tmp_path, "--labels", "--source", source, "--out", out, *SHORT)
        said.append(capsys.readouterr().out)
        written.append(json.loads(out.read_text()))
        del written[-1]["advice"]["reasons"]  # which have times
    assert written[0] == written[1]
    lines = [next(line for line in each.splitlines() if "% right" in line) for each in said]
    assert lines[0] != lines[1]


def _scrambled(*arguments, **options):
    known = load_labelled(*arguments, **options)
    return replace(known, labels=torch.zeros_like(known.labels))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--source", "S", "--labels"), "give these behind the bundle"),
        (("--source", "S", "--minutes", "0"), "--minutes must be more than 0"),
        (("--source", "S", "--out", "."), "is a folder"),
        (("--source", "S", "--page", "-"), "cannot be written to standard output"),
        (("--source", "S", "--out", "a", "--page", "./a"), "--out and --page are the same file"),
        (("--source", "S", "--memory", "2XB"), "2XB"),
        (("--source", "nowhere/at/all"), "there is no folder or zip"),
        (("nowhere/at/all", "--source", "S"), "there is no folder or zip"),
        (("--source", "S", "--batch", "0"), "at least 1 image"),
        (("--source", "S", "--methods", "tend"), "did you mean tent"),
        (("--source", "S", "--methods", "ttt"), "there is nothing to choose among"),
        (("D", "--source", "S", "--labels"), "no images in a folder test"),
    ],
)
def test_bad_input(saved, source, data, capsys, arguments, said):
    names = {"S": source, "D": data / "train"}
    given = [names.get(each, each) for each in arguments]
    assert said in refusal(capsys, "advise", saved, *given, "--device", "cpu")


def test_too_few_source_images(saved, data, capsys):
    said = refusal(capsys, "advise", saved, "--source", data / "train", "--device", "cpu")
    assert "at least 64 grey or RGB source images, not 40" in said


@pytest.fixture
def settings(saved, tmp_path):
    """A settings file for the bundle; tent with a change."""
    from acclimate.advise.settings_file import SettingsFile
    from acclimate.evaluate.variant import Variant

    path, weights = tmp_path / "s.json", read_record(saved)["weights_sha256"]
    save(path, SettingsFile(Variant.of("tent", {"reset": "batch", "steps": 2}), 16, "off", weights))
    return path


def adapt(saved, settings, *more):
    given = [str(saved), "photos", "--out", "x.csv", "--settings", str(settings), *more]
    return cli.parse("adapt", given)


def test_adapt_takes_the_file_and_options_win(saved, settings):
    from acclimate.evaluate.variant import Variant
    from acclimate.methods import METHODS

    command = adapt(saved, settings)
    assert (command.method, command.batch) == ("tent", 16)
    assert command.settings == Variant.parse("tent:reset=batch,steps=2").settings
    other = adapt(saved, settings, "--batch", "8", "--steps", "1", "--reset", "never")
    assert (other.batch, other.settings) == (8, METHODS["tent"].settings)
    named = adapt(saved, settings, "--method", "cta")
    assert (named.method, named.settings, named.batch) == ("cta", METHODS["cta"].settings, 16)
    assert adapt(saved, settings, f"--settings={settings}").method == "tent"


def test_a_file_of_another_bundle_is_refused(settings, bundle_of, tmp_path, data, capsys):
    bundle_of("source").save(tmp_path / "other")
    given = ("--settings", settings, "--out", tmp_path / "x")
    said = refusal(capsys, "adapt", tmp_path / "other", data / "train", *given)
    assert "is for a bundle with other weights than" in said
    said = refusal(capsys, "bench", tmp_path / "other", "--data", data, *given)
    assert "is for a bundle with other weights than" in said
    missing = ("--settings", tmp_path / "none.json", "--out", tmp_path / "x")
    assert "cannot read" in refusal(capsys, "adapt", tmp_path / "other", data, *missing)
    assert "cannot read" in refusal(capsys, "bench", tmp_path / "other", "--data", data, *missing)


def test_bench_takes_the_file_and_options_win(saved, settings):
    base = [str(saved), "--data", "d", "--out", "o", "--settings", str(settings)]
    grid = cli.parse("bench", base)._grid()
    assert grid.methods == ("source", "tent:reset=batch,steps=2") and grid.batch == 16
    other = cli.parse("bench", [*base, "--methods", "cta", "--batch", "8"])._grid()
    assert (other.methods, other.batch) == (("cta",), 8)
    single = cli.parse("bench", [*base, "--protocol", "single-images"])._grid()
    assert single.batch == 1
