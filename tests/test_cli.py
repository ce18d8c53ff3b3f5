import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

import acclimate.source.aligned
import acclimate.source.train
from acclimate.bundle import Bundle, read_record
from acclimate.cli import main
from acclimate.commands import VERBS
from acclimate.data import corrupt, load
from acclimate.methods import METHODS, changed
from acclimate.methods.kinds import KINDS
from acclimate.parts.aftermath import PullToSource
from acclimate.source.presets import PRESETS, STAGES

SMALL = ["--model", "acclimate:resnet8-w4"]


@pytest.fixture(scope="module")
def trained(few_trials, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "bundle"
    stages = ["--epochs", "1", "--align.epochs", "2", "--supervised.batch", "20"]
    main(["train", "--data", str(data), "--out", str(out), *SMALL, *stages, "--seed", "5"])
    return out


def test_train_makes_a_bundle_and_leaves_nothing_else(trained):
    bundle = Bundle.load(trained)
    assert bundle.classes == ("dark", "light")
    assert bundle.architecture == bundle.twin_architecture == "acclimate:resnet8-w4"
    assert [path.name for path in trained.parent.iterdir()] == ["bundle"]
    assert bundle.provenance["seed"] == 5
    settings = bundle.provenance["settings"]
    epochs = {stage: settings[stage]["epochs"] for stage in ("supervised", "contrastive", "align")}
    assert epochs == {"supervised": 1, "contrastive": 1, "align": 2}
    assert settings["supervised"]["batch"] == 20
    assert settings["align"]["learning_rate"] == PRESETS["small"].align.learning_rate


def test_adapt_writes_an_answer_for_each_image(trained, data, tmp_path, capsys):
    out = tmp_path / "predictions.csv"
    main(["adapt", str(trained), str(data), "--out", str(out), "--batch", "16"])
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows[:2]] == ["train/dark/0.png", "train/dark/1.png"]
    assert len(rows) == 40
    assert {row["prediction"] for row in rows} <= {"dark", "light"}
    changed = sum(row["prediction"] != row["frozen_prediction"] for row in rows)
    said = " ".join(capsys.readouterr().out.split())
    assert f"40 answers, {changed} of them changed by adapting, 0 images skipped" in said


def test_adapt_takes_settings_from_the_method_and_the_command(trained, data, tmp_path, monkeypatch):
    given = {}

    def spy(bundle, images, **named):
        given.update(named)
        return iter(())

    monkeypatch.setattr("acclimate.adapt.folder.adapt_folder", spy)
    command = ["adapt", str(trained), str(data), "--out", str(tmp_path / "x.csv")]
    main(command)
    assert (given["method"], given["settings"]) == ("cta", METHODS["cta"].settings)
    main([*command, "--method", "cta-paper", "--steps", "3", "--reset", "never"])
    expected = changed(METHODS["cta-paper"].settings, {"steps": 3, "reset": "never"})
    assert (given["method"], given["settings"]) == ("cta-paper", expected)
    main([*command, "--method=aligned-bn", "--normalisation.prior", "16"])
    expected = changed(METHODS["aligned-bn"].settings, {"normalisation.prior": 16.0})
    assert given["settings"] == expected
    main([*command, "--update=sgd", "--update.momentum", "0.9", "--normalisation", "running"])
    expected = {"update": "sgd", "update.momentum": 0.9, "normalisation": "running"}
    assert given["settings"] == changed(METHODS["cta"].settings, expected)
    main([*command, "--aftermath", "pull", "--aftermath.0.rate", "0.5"])
    assert given["settings"].aftermath == (PullToSource(0.5),)


def test_the_help_of_adapt_names_every_kind_of_every_part(capsys):
    with pytest.raises(SystemExit):
        main(["adapt", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    for part, kinds in KINDS.items():
        assert f"--{part} {', '.join(kinds)}" in words


def test_adapt_takes_the_bundles_method(trained, data, tmp_path, monkeypatch):
    replace(Bundle.load(trained), method="ptbn").save(tmp_path / "other")
    given = {}
    monkeypatch.setattr(
        "acclimate.adapt.folder.adapt_folder", lambda *_, **named: given.update(named) or iter(())
    )
    command = ["adapt", str(tmp_path / "other"), str(data), "--out", str(tmp_path / "x.csv")]
    main(command)
    assert (given["method"], given["settings"]) == ("ptbn", METHODS["ptbn"].settings)
    main([*command, "--method", "source"])
    assert (given["method"], given["settings"]) == ("source", METHODS["source"].settings)


def test_adapt_names_what_it_skips(trained, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    Image.new("RGB", (20, 30), "red").save(tmp_path / "good [brackets].png")
    main(["adapt", str(trained), str(tmp_path), "--out", str(tmp_path / "x.csv")])
    said = " ".join(capsys.readouterr().out.split())
    assert "skipped bad.png: it " in said
    assert "1 answers" in said
    assert "1 images skipped" in said


def test_info_prints_the_record(trained, capsys):
    main(["info", str(trained), "--json"])
    found = json.loads(capsys.readouterr().out)
    record = read_record(trained)
    assert {name: found[name] for name in record} == record
    assert record["architecture"] == "acclimate:resnet8-w4"


@pytest.fixture
def devices():
    """Where the ``train`` commands of `stages` were told to run."""
    return []


@pytest.fixture
def stages(monkeypatch, data, tmp_path, devices):
    """The settings that a ``train`` command hands to the library."""

    class EnoughError(Exception):
        pass

    def settings_of(*arguments):
        given = []

        def spy(name, model, data, settings, run, **named):
            given.append(settings)
            devices.append(run.device)
            raise EnoughError

        monkeypatch.setattr(acclimate.source.train, "train", spy)
        with pytest.raises(EnoughError):
            main(["train", "--data", str(data), "--out", str(tmp_path / "b"), *SMALL, *arguments])
        return given[0]

    return settings_of


def test_device_of_training(stages, devices):
    stages()
    stages("--device", "cpu")
    assert devices == [None, "cpu"]


def test_presets_and_epochs(stages):
    assert stages() == PRESETS["small"]
    paper = PRESETS["paper"]
    assert stages("--preset", "paper") == paper
    assert paper.align.epochs == 50
    changed = stages("--preset=paper", "--epochs=4", "--contrastive.epochs", "0")
    four = {stage: replace(getattr(paper, stage), epochs=4) for stage in STAGES}
    assert changed == replace(paper, **four | {"contrastive": replace(paper.contrastive, epochs=0)})
    views = stages("--views.smallest-crop", "0.7", "--align-temperature", "0.2")
    assert (views.views.smallest_crop, views.align_temperature) == (0.7, 0.2)
    assert views.align == PRESETS["small"].align


def test_align_takes_weights_and_no_labels(trained, data, tmp_path):
    """The classifier of one bundle, as a file of weights, becomes that of another."""
    classifier = Bundle.load(trained).classifier
    save_file(classifier.state_dict(), tmp_path / "mine.safetensors")
    (tmp_path / "names.txt").write_text("night\n\nday\n")
    command = [
        "align",
        *SMALL,
        "--images",
        str(data),
        "--weights",
        str(tmp_path / "mine.safetensors"),
    ]
    command += ["--epochs", "1", "--class-names", str(tmp_path / "names.txt")]
    command += ["--interpolation", "1"]
    command += ["--mean", "0.5", "0.4", "0.3", "--std", "0.2", "0.2", "0.1"]
    main([*command, "--out", str(tmp_path / "bundle")])
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.classes == ("night", "day")
    assert bundle.preprocessing.mean == (0.5, 0.4, 0.3)
    assert bundle.preprocessing.std == (0.2, 0.2, 0.1)
    before = classifier.state_dict()
    after = bundle.classifier.state_dict()
    assert all(before[name].equal(after[name]) for name in before)
    # Batch norm is estimated anew, and a step taken, so the twin is no copy.
    assert not bundle.twin.head.weight.equal(bundle.classifier.head.weight)


def test_an_interrupted_training_says_how_to_go_on(data, tmp_path, monkeypatch, capsys):
    def interrupt(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(acclimate.source.train, "train", interrupt)
    with pytest.raises(SystemExit) as stop:
        main(["train", "--data", str(data), "--out", str(tmp_path / "b"), *SMALL])
    assert stop.value.code == 130
    assert "run the same command again" in " ".join(capsys.readouterr().err.split())


def test_corrupt_writes_a_set_and_a_picture_and_says_what_was_there(data, tmp_path, capsys):
    command = ["corrupt", str(data), "--split", "train", "--out", str(tmp_path / "set")]
    command += ["--corruptions", "fog", "contrast", "--severities", "1", "5"]
    main([*command, "--preview", str(tmp_path / "p.png")])
    said = " ".join(capsys.readouterr().out.split())
    count = len(load(data, "train").images)
    assert f"2 corruptions x 2 severities of {count} images; {4 * count} images written" in said
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == [
        "contrast.npy",
        "fog.npy",
        "labels.npy",
        "manifest.json",
    ]
    array = np.load(tmp_path / "set" / "fog.npy")
    expected = corrupt(load(data, "train").images, "fog", 5).permute(0, 2, 3, 1)
    assert np.array_equal(array[count:], expected)
    assert (tmp_path / "p.png").stat().st_size > 1000
    main(command)
    assert "; 0 images written" in " ".join(capsys.readouterr().out.split())


def test_corrupt_all_are_nineteen(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(
        "acclimate.report.preview.write_preview", lambda *args, seed: given.append(args)
    )
    picture = str(tmp_path / "p.png")
    main(["corrupt", "fashion-mnist-mini", "--preview", picture, "--corruptions", "all"])
    main(["corrupt", "fashion-mnist-mini", "--preview", picture])
    assert [len(args[2]) for args in given] == [19, 15]


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"] if verb else ["--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert "usage" in said.lower()
    expected = list(VERBS) if verb is None else {"adapt": ["--steps", "--method"]}.get(verb, [])
    assert all(name in said for name in expected)


def test_class_names_order_the_labels_of_a_trainable_classifier(data, tmp_path, monkeypatch):
    given = {}

    class EnoughError(Exception):
        pass

    def spy(model, images, **named):
        given.update(named)
        raise EnoughError

    monkeypatch.setattr(acclimate.source.aligned, "align", spy)
    command = ["align", *SMALL, "--images", str(data), "--out", str(tmp_path / "b")]
    command += ["--trainable-classifier"]
    with pytest.raises(EnoughError):
        main(command)
    sorted_labels = given["labels"]
    assert given["classes"] == ["dark", "light"]
    (tmp_path / "names.txt").write_text("light\ndark\n")
    with pytest.raises(EnoughError):
        main([*command, "--class-names", str(tmp_path / "names.txt")])
    assert given["classes"] == ["light", "dark"]
    assert given["labels"].tolist() == [1 - label for label in sorted_labels.tolist()]
    (tmp_path / "names.txt").write_text("light\ngrey\n")
    with pytest.raises(SystemExit) as caught:
        main([*command, "--class-names", str(tmp_path / "names.txt")])
    assert caught.value.code == 2
