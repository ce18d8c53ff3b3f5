"""A prompt or a notebook shows an object as one short line, without tensors."""

import pytest
import torch

import acclimate
from acclimate.data import Images, LabelledImages, Shift, streams
from acclimate.evaluate.measure import measure
from acclimate.evaluate.variant import Variant
from acclimate.guard import Guard, measure_guard
from acclimate.parts.step import too_few

pytestmark = pytest.mark.usefixtures("few_trials")


@pytest.fixture(scope="module")
def guard(bundle, images, few_trials):
    """A guard that has answered for a batch."""
    calibrated = measure_guard(bundle, images[:32])
    guard = Guard(acclimate.Adapter(calibrated, "tent", device="cpu"), calibrated)
    guard(images[:16])
    return guard


@pytest.fixture(scope="module")
def data(images):
    return LabelledImages(images[:24], torch.arange(24) % 4, ("ant", "bee", "cat", "dog"), "pets")


@pytest.fixture(scope="module")
def shown(bundle, guard, data):
    """Everything that answers or is answered with, by its class."""
    shift = Shift("fog", 5)
    stream = streams.shuffled(data.images, shift, batch=10)
    (cell,) = measure(bundle, Variant("tent"), data, [shift], batch=10, label="mine")
    found = [bundle, guard, guard.adapter, guard.verdict, guard.verdict.estimate, guard.change]
    found += [guard.snapshot(), guard.adapter.snapshot(), guard.adapter.steps[0]]
    found += [guard.adapter.cost(4), too_few(torch.device("cpu")), bundle.preprocessing]
    found += [data, Images(data.images, ()), shift, stream, next(iter(stream)), cell, cell.answers]
    return found


def test_it_is_a_short_line(shown):
    for each in shown:
        text = repr(each)
        assert "\n" not in text
        assert "tensor(" not in text
        assert len(text) < 250, text
        assert text.startswith(f"{type(each).__name__}(")


def test_it_says_what_it_is_of(bundle, guard, data):
    assert repr(bundle) == (
        "Bundle(acclimate:resnet8-w8, with a twin, 4 classes, images of 3 × 16 × 16, method 'cta')"
    )
    assert repr(guard.adapter) == "Adapter('tent', cpu, 16 images seen)"
    assert repr(guard).startswith(
        "Guard('bounded', Adapter('tent', cpu, 16 images seen), Estimate("
    )
    assert repr(data) == "LabelledImages(pets, 24 images of 3 × 16 × 16, 4 classes)"
    assert str(Shift("fog", 5)) == "fog 5"
    assert str(Shift("none", 0)) == "none"
    stream = streams.continual(data.images, [Shift("fog", 5), Shift("none", 0)], batch=10)
    assert repr(stream) == "Stream(48 images in 5 batches)"
    first, _, third, *_ = stream
    assert repr(first) == "Batch(10 images, fog 5, up to 10)"
    assert repr(third) == "Batch(10 images, fog 5, none, up to 30)"


def test_a_cell_says_how_many_are_right(bundle, data):
    (cell,) = measure(bundle, Variant("source"), data, [Shift("none", 0)], batch=10, label="mine")
    share = f"{100 * cell.answers.right.mean():.1f} %"
    assert repr(cell) == f"Cell(mine: source, none, shuffled 10: {share} of 24)"
    assert repr(cell.answers) == f"Answers(24 images, {share} right)"


def test_an_adapter_that_has_seen_nothing_and_a_guard_without_a_verdict(bundle, guard):
    assert (
        repr(acclimate.Adapter(bundle, "cta", device="cpu")) == "Adapter('cta', cpu, 0 images seen)"
    )
    guard.reset()
    assert repr(guard) == "Guard('bounded', Adapter('tent', cpu, 0 images seen))"
