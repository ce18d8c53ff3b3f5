"""Each example runs as a program and prints what it promises."""

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from acclimate.data import load, subset
from acclimate.methods import METHODS, RECIPES
from acclimate.objectives import OBJECTIVES
from acclimate.source.loop import Training
from acclimate.source.presets import PRESETS
from acclimate.source.train import train

EXAMPLES = Path(__file__).parents[1] / "examples"
LAYERS = (("conv", 1), ("bn", 1), ("conv", 2), ("bn", 2))
"""In each block of the public ResNets."""


@pytest.fixture
def run(few_trials, monkeypatch, capsys):
    """Run an example in this process; it returns what it prints."""

    def run(name: str, *arguments: str) -> str:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [name, "--quick", *arguments])
        with patch.dict(OBJECTIVES), patch.dict(RECIPES), patch.dict(METHODS):
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def run_as_a_program(name: str, *arguments: str) -> str:
    """What an example prints."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, "--quick", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def percents(text: str) -> list[float]:
    """All numbers with one decimal, which must be percentages."""
    found = [float(number) for number in re.findall(r"\b\d+\.\d\b", text)]
    assert all(0 <= number <= 100 for number in found)
    return found


def module(name: str) -> ModuleType:
    """What an example defines."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, EXAMPLES / name)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example


def test_every_example_is_tested():
    own = {"adapt_your_model.py", "new_method.py", "plain_loop.py", "stream.py"}
    others = {"public_resnet.py", "serve_drift.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == own | others


def test_adapt_your_model_compares_with_the_frozen_network():
    lines = run_as_a_program("adapt_your_model.py").splitlines()
    assert [line.split()[0] for line in lines] == ["shift", "none", "gaussian_noise", "contrast"]
    assert len(percents("\n".join(lines))) == 6
    # It has seen the training set once: far more than the 10 % of guessing, without a shift.
    assert percents(lines[1])[0] > 50


@pytest.mark.slow
@pytest.mark.parametrize("name", ["new_method.py", "plain_loop.py", "stream.py"])
def test_the_others_are_programs_too(name):
    assert run_as_a_program(name)


def test_new_method_adapts_by_its_own_task(run):
    (line,) = run("new_method.py").splitlines()
    words = r"frozen (\S+), batch statistics (\S+), adapted (\S+) % correct"
    assert percents(" ".join(re.fullmatch(words, line).groups()))[2] > 25  # guessing: 10


@pytest.mark.slow
def test_new_method_has_learned_its_task():
    with patch.dict(OBJECTIVES), patch.dict(RECIPES), patch.dict(METHODS):
        module("new_method.py")
        images = subset(load("fashion-mnist-mini", "train"), 1000)
        joint = Training(4, batch=64, learning_rate=1e-2, warm_up=0.5)
        settings = replace(PRESETS["small"], joint=joint, crop_padding=2, cutout=0)
        bundle = train("upside-down", "acclimate:resnet8-w8", images, settings)
    test = subset(load("fashion-mnist-mini", "test"), 500).images
    views, turned = bundle.objective.draw(
        bundle.preprocessing.unit(test), 0, torch.arange(len(test))
    )
    with torch.no_grad():
        guesses = bundle.objective.guess(
            bundle.classifier.encoder(bundle.preprocessing.normalize(views))
        )
    # Guessing: 50 %, and 55 % of 1,000 views is three standard deviations above.
    assert (guesses.argmax(1) == turned).float().mean() > 0.55


def test_plain_loop_trains_both_losses_and_answers(run):
    text = run("plain_loop.py")
    # Chance is log(2n − 1) for Eq. 1 and log(3n − 1) for Eq. 4, with n = 122 in the last batch.
    contrastive, alignment = (float(x) for x in re.findall(r"loss (\d+\.\d{3})", text))
    assert 0 < contrastive < 5.5
    assert 0 < alignment < 5.9
    assert len(percents("\n".join(text.splitlines()[-2:]))) == 2


def test_stream_prints_a_line_a_batch(run):
    lines = run("stream.py").splitlines()
    assert len(lines) == 256 // 32 + 1
    assert lines[-1].endswith("0 fallbacks")


def test_stream_falls_back_when_steps_blow_up(run):
    lines = run("stream.py", "--learning-rate", "1e38").splitlines()
    assert lines[-1].endswith("8 fallbacks")
    assert all(line.endswith("  0.0 % changed by adapting") for line in lines[:-1])


@pytest.fixture
def pictures(tmp_path):
    """Pictures of 32 pixels in folders, as cifar10.zip has them, of two kinds."""
    draw = torch.Generator().manual_seed(0)
    for part, count in (("train", 20), ("test", 8)):
        for kind, level in (("ant", 60), ("zebra", 180)):
            folder = tmp_path / "data" / part / kind
            folder.mkdir(parents=True)
            for number in range(count):
                noise = torch.randint(-40, 40, (32, 32, 3), generator=draw)
                pixels = (level + noise).to(torch.uint8).numpy()
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "data"


@pytest.mark.parametrize("depth", [20, 56])
def test_public_resnet_has_the_layers_of_the_public_files(depth):
    weights = module("public_resnet.py").ResNet((depth - 2) // 6, 10).state_dict()
    blocks = (depth - 2) // 6
    inner = [f"layer{s}.{b}.{x}{n}" for s in (1, 2, 3) for b in range(blocks) for x, n in LAYERS]
    assert {name.rpartition(".")[0] for name in weights} == {"conv1", "bn1", "linear", *inner}
    assert weights["layer3.0.conv1.weight"].shape == (64, 32, 3, 3)


def test_public_resnet_goes_from_weights_to_a_table(run, pictures, tmp_path):
    torch.manual_seed(0)
    network = module("public_resnet.py").ResNet(1, 2)
    save_file(network.state_dict(), tmp_path / "resnet8.safetensors")
    files = ("--data", pictures, "--weights", tmp_path / "resnet8.safetensors")
    arguments = map(str, (*files, "--depth", 8, "--out", tmp_path / "bundle"))
    weights, bundle, header, *rows = run("public_resnet.py", *arguments).splitlines()
    assert weights.startswith("weights: ")
    assert "'frozen, clean'" in bundle
    assert header.split()[-4:] == ["source", "bn-adapt", "aligned-bn", "cta"]
    assert [row.split()[0] for row in rows] == ["none", "gaussian_noise"]
    assert len(percents("\n".join(rows))) == 8
    assert (tmp_path / "bundle").is_dir()


@pytest.mark.slow
def test_serve_drift():
    pytest.importorskip("fastapi")
    printed = run_as_a_program("serve_drift.py")
    assert re.search(r"^the live page is at http://127\.0\.0\.1:\d+$", printed, re.MULTILINE)
    rows = re.findall(
        r"^(north|east|south) +(\w+) +(\d|all)((?: +\d+\.\d%){3})$", printed, re.MULTILINE
    )
    assert len(rows) == 3 * (6 + 1)
    assert len({name for _, name, *_ in rows}) == 3
    assert all(0 <= value <= 100 for *_, values in rows for value in percents(values))
    assert printed.count("estimated without labels") == 3
