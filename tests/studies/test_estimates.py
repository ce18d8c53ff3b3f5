"""The study of estimates: what it computes from logits, and which images it takes."""

import sys
from pathlib import Path

import pytest
import torch

from acclimate.data import LabelledImages
from acclimate.guard.calibration import Answered, calibrated


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "studies"))
    import estimates

    yield estimates
    sys.modules.pop("estimates", None)


def answers(study, share, count=96, strength=4.0, seed=0):
    """Both models are right for a share of the images; the adapted one is more certain."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    wrong = torch.arange(count) >= share * count
    given = (labels + wrong) % 4
    logits = 0.1 * torch.rand(count, 4, generator=generator)
    logits[torch.arange(count), given] += strength * (~wrong) + 1
    return study.Answers(logits, 2 * logits, torch.zeros(len(labels), 5), labels)


def test_peers_on_answers_whose_confidence_tells(study):
    clean, stream = answers(study, 0.75), answers(study, 0.5, seed=1)
    assert study._accuracy(stream, "frozen") == 0.5
    assert study._thresholded(clean, clean, "frozen") == pytest.approx(0.75, abs=0.02)
    assert study._thresholded(stream, clean, "adapted") == pytest.approx(0.5, abs=0.05)
    assert study._difference(clean, clean, "frozen") == pytest.approx(0.75)
    assert study._difference(stream, clean, "frozen") < 0.75


def test_rows_and_their_summary(study):
    truth = 0.02 + 0.9 * torch.nn.functional.one_hot(torch.arange(96) % 4, 4)
    sets = [
        Answered(name, False, False, each.looks, each.frozen, each.adapted, [32] * 3, truth)
        for name, each in (("none", answers(study, 0.9)), ("fog", answers(study, 0.4)))
    ]
    calibration = calibrated(sets)
    rows = [
        {"corruption": "fog", "severity": 1} | row
        for share in (0.5, 0.8)
        for row in study.of_stream(answers(study, share), answers(study, 0.9), calibration)
    ]
    assert [row["model"] for row in rows] == ["frozen", "adapted"] * 2
    assert all(row["low"] <= row["guard"] <= row["high"] for row in rows)
    assert rows[0]["agreement"] == 1
    frozen, adapted = study.summary(rows)
    assert frozen["sets"] == adapted["sets"] == 2 and frozen["accuracy"] == pytest.approx(65, abs=1)
    expected = 100 * sum(abs(row["guard"] - row["accuracy"]) for row in rows[::2]) / 2
    assert frozen["guard"] == pytest.approx(expected, abs=0.01)
    assert frozen["held"] in (0.0, 50.0, 100.0)


def test_measured_and_labelled_images_are_apart_and_choose_no_rule(study, monkeypatch):
    images = torch.arange(400).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    test = LabelledImages(images, torch.arange(400) % 4, tuple("abcd"), "few")
    monkeypatch.setattr(study, "load", lambda *_: test)
    arguments = study.Arguments("data", Path("b"), Path("o"), Path("r"), images=50)
    one, other = (set(each.images[:, 0, 0, 0].tolist()) for each in study._images(arguments))
    assert len(one) == len(other) == 50 and not one & other
    assert all(number % 2 for number in one | other)  # guard_streams.py has the even ones
