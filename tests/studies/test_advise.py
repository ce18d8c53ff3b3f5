"""The study of advice: its cases, and what is counted as lost."""

import sys
from pathlib import Path

import pytest
import torch

from acclimate.advise.advice import Advice
from acclimate.advise.candidates import Candidate
from acclimate.advise.choose import Choice, Gain
from acclimate.advise.labelled import Labelled
from acclimate.data import LabelledImages
from acclimate.evaluate.variant import Variant

TENT, PTBN = (Candidate(Variant(name), 16) for name in ("tent", "ptbn"))


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "studies"))
    import advise

    yield advise
    for name in ("advise", "estimates"):
        sys.modules.pop(name, None)


def summary(study, chosen, gains):
    predicted = {name: Gain(0.1, 0.05, 0.15) for name in gains}
    choice = Choice(chosen, predicted, TENT)
    frozen = torch.zeros(2, 9)
    advice = Advice(choice, (), {}, frozen, torch.ones(2) / 2, "shuffled", False, None)
    found = {name: Gain(value, value - 0.01, value + 0.01) for name, value in gains.items()}
    case = study.CASES["noise"]
    return study._summary("noise", case, advice, Labelled(0.4, found), "this takes about 1: x")


@pytest.mark.parametrize(
    ("chosen", "gains", "table", "loss"),
    [
        (TENT, {TENT: 0.2, PTBN: 0.1}, "tent", 0.0),
        (PTBN, {TENT: 0.2, PTBN: 0.15}, "tent", 5.0),
        (TENT, {TENT: -0.1, PTBN: -0.2}, "source", 10.0),
        (None, {TENT: -0.1, PTBN: 0.02}, "ptbn", 2.0),
        (None, {TENT: -0.1, PTBN: 0.0}, "source", 0.0),
    ],
)
def test_the_loss_is_to_the_best_of_the_table(study, chosen, gains, table, loss):
    row = summary(study, chosen, gains)
    assert row["table"] == table and row["loss"] == pytest.approx(loss)
    assert row["advised"] == ("source" if chosen is None else str(chosen.variant))


def test_targets_come_as_the_case_says(study, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, 3, 32, 32), generator=generator, dtype=torch.uint8)
    data = LabelledImages(images, torch.arange(40) % 4, tuple("abcd"), "few")
    monkeypatch.setattr(study, "unseen", lambda _: data)
    monkeypatch.setattr(study, "load", lambda *_: data)
    arguments = study.Arguments("d", *[Path("p")] * 5, images=20)
    found = {name: study._target(arguments, case) for name, case in study.CASES.items()}
    sorted_ = found["noise, by class"].labels
    assert torch.equal(sorted_, sorted_.sort().values) and len(sorted_) == 20
    assert torch.equal(found["clean"].images, images[::2])
    assert not torch.equal(found["noise"].images, images[::2])
    assert torch.equal(found["noise"].images, found["noise, single images"].images)
