"""Each example runs as a program and prints what it promises."""

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from acclimate.data import load, subset
from acclimate.methods import METHODS, RECIPES
from acclimate.objectives import OBJECTIVES
from acclimate.source.loop import Training
from acclimate.source.presets import PRESETS
from acclimate.source.train import train

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(monkeypatch, capsys):
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


def test_every_example_is_tested():
    tested = {"adapt_your_model.py", "new_method.py", "plain_loop.py", "stream.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


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
    spec = importlib.util.spec_from_file_location("new_method", EXAMPLES / "new_method.py")
    example = importlib.util.module_from_spec(spec)
    with patch.dict(OBJECTIVES), patch.dict(RECIPES), patch.dict(METHODS):
        spec.loader.exec_module(example)
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
