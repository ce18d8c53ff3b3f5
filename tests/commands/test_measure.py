from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from acclimate.adapt import Adapter
from acclimate.backbones import build
from acclimate.bundle import Bundle
from acclimate.cli import main
from acclimate.errors import InputError
from acclimate.guard import Guard, measure_guard
from acclimate.source.loop import Run
from acclimate.source.statistics import measure


@pytest.fixture
def plain(bundle, tmp_path):
    """A bundle as older versions made it: nothing is known of its source."""
    path = tmp_path / "plain"
    replace(bundle, statistics={}).save(path)
    return path


def said(capsys):
    return " ".join(" ".join(capsys.readouterr()).split())


def test_what_is_measured_is_what_python_measures(few_trials, plain, data, tmp_path, capsys):
    out = tmp_path / "measured"
    main(["measure", str(plain), str(data / "train"), "--out", str(out), "--device", "cpu"])
    assert f"{out} is the bundle with fisher, guard, proto" in capsys.readouterr().out.replace(
        "\n", ""
    )
    found, before = Bundle.load(out), Bundle.load(plain)
    from acclimate.data import load_images

    given = load_images(data / "train", size=before.preprocessing).images
    expected = measure_guard(measure(before, given), given).statistics
    assert found.statistics.keys() == expected.keys() and expected
    for name, tensor in expected.items():
        assert torch.equal(found.statistics[name], tensor), name
    for name, tensor in before.modules.state_dict().items():
        assert torch.equal(found.modules.state_dict()[name], tensor), name


def kinds(path):
    return {name.rsplit(".", 1)[0] for name in Bundle.load(path).statistics if ".guard." in name}


@pytest.fixture
def weights(tmp_path):
    """Of a network that wrap and align take."""
    path = tmp_path / "weights.safetensors"
    save_file(build("acclimate:resnet8-w4", classes=2).state_dict(), path)
    return ["--model", "acclimate:resnet8-w4", "--weights", str(path)]


MAKING = {
    "measure": lambda data, plain, _: [str(plain), data],
    "wrap": lambda data, _, weights: [*weights, "--images", data],
    "train": lambda data, _, __: ["--model", "acclimate:resnet8-w4", "--data", data],
    "align": lambda data, _, weights: [*weights, "--images", data],
}


@pytest.mark.parametrize("verb", MAKING)
def test_a_bundle_of_source_images_can_be_guarded(
    verb, few_trials, plain, weights, data, tmp_path, monkeypatch
):
    counts = []

    def spy(bundle, images, run, *, count):
        counts.append((len(images), count))
        return measure_guard(bundle, images, run, count=count)

    monkeypatch.setattr("acclimate.guard.measure_guard", spy)
    out = tmp_path / "made"
    epochs = ["--epochs", "1"] if verb in ("train", "align") else []
    command = [verb, *MAKING[verb](str(data), plain, weights), *epochs, "--out", str(out)]
    main([*command, "--guard", "36"])
    bundle = Bundle.load(out)
    models = ("classifier", "twin") if bundle.twin else ("classifier",)
    assert kinds(out) >= {f"{model}.guard.better" for model in models}
    assert counts == [(40, 36)]
    for model, name in {"classifier": "tent", "twin": "acclimate"}.items():
        if model in models:
            Guard(Adapter(bundle, name), bundle)


@pytest.mark.parametrize("verb", ["measure", "wrap"])
def test_a_guard_s_calibration_can_be_left_out(verb, few_trials, plain, weights, data, tmp_path):
    command = [verb, *MAKING[verb](str(data), plain, weights), "--out", str(tmp_path / "x")]
    main([*command, "--guard", "0"])
    assert not kinds(tmp_path / "x")


@pytest.mark.parametrize("verb", MAKING)
def test_a_guard_of_too_few_images_is_refused_before_any_work(verb, weights, tmp_path, capsys):
    options = MAKING[verb]("nowhere", tmp_path / "no", weights)
    command = [verb, *options, "--out", str(tmp_path / "x")]
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--guard", "7"])
    assert stopped.value.code == 2
    assert "--guard must be 0 or at least 32 images, not 7." in said(capsys)


def test_a_guard_without_images_is_refused(weights, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["wrap", *weights, "--size", "16", "--out", str(tmp_path / "out"), "--guard", "64"])
    assert stopped.value.code == 2 and not (tmp_path / "out").exists()
    assert "--guard is a number of source images; give --images, too." in said(capsys)


def test_where_a_guard_cannot_be_calibrated_the_rest_is_measured(plain, data, tmp_path, capsys):
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((data / "train" / "dark").iterdir()):
        (few / path.name).write_bytes(path.read_bytes())
    main(["measure", str(plain), str(few), "--out", str(tmp_path / "x"), "--device", "cpu"])
    assert "the bundle has no guard: a guard is calibrated on at least 32" in said(capsys)
    assert Bundle.load(tmp_path / "x").statistics and not kinds(tmp_path / "x")


def test_a_method_that_lacks_them_says_how_they_come(plain, data, tmp_path, capsys):
    out = ["--out", str(tmp_path / "answers.csv")]
    with pytest.raises(SystemExit) as stopped:
        main(["adapt", str(plain), str(data / "train"), "--method", "eata", *out])
    assert stopped.value.code == 2
    assert "acclimate measure BUNDLE IMAGES" in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_measured_anew_stays(bundle, images):
    """Of a single image there are no Fisher weights, but class means."""
    run = Run(device="cpu")
    whole = measure(bundle, images[:16], run)
    again = measure(whole, images[:1], run)
    fisher = [name for name in whole.statistics if ".fisher." in name]
    assert fisher and whole.statistics.keys() == again.statistics.keys()
    for name in fisher:
        assert torch.equal(again.statistics[name], whole.statistics[name])
    changed = [
        n for n in again.statistics if not torch.equal(again.statistics[n], whole.statistics[n])
    ]
    assert changed and all(".prototypes." in name for name in changed)


def test_a_part_of_transformers_refuses_other_networks(bundle, images):
    measured = measure(bundle, images[:8], Run(device="cpu"))
    with pytest.raises(InputError, match="a vision transformer's blocks give on, and this network"):
        Adapter(measured, "tent", correction="shifted", device="cpu")


def test_nothing_is_overwritten(plain, data, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["measure", str(plain), str(data / "train"), "--out", str(plain)])
    assert stopped.value.code == 2
    assert "exists already" in capsys.readouterr().err
