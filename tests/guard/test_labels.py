"""Labels that come later: what they change, and what they never do."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.adapt import Adapter
from acclimate.errors import InputError
from acclimate.guard.decide import GuardState, judge
from acclimate.guard.guard import Guard
from acclimate.guard.labels import KEPT, NONE, Labels, bias
from acclimate.guard.rules import Rules
from acclimate.guard.signals import Recent

from .conftest import answered


@given(values=st.lists(st.floats(-1, 1), min_size=1, max_size=60), error=st.floats(0.01, 0.3))
@settings(deadline=None)
def test_the_bias_is_the_shrunk_mean(values, error):
    known = Recent.of(torch.zeros(1), 1e-6)
    total = weight = squares = 0.0
    for value in values:
        known.add(torch.tensor([[value]]), torch.ones(1), 350.0)
        kept = 0.5 ** (1 / 350)
        total, weight = kept * total + value, kept * weight + 1
        squares = kept**2 * squares + 1
    mean, count = total / weight, weight**2 / squares
    own = max(error**2, mean**2 - 1.645**2 * 0.25 / count)
    shift, left = bias(known, torch.tensor([error]))
    assert float(shift) == pytest.approx(mean * own / (own + 0.25 / count), abs=1e-4)
    assert float(left) ** 2 == pytest.approx(1 / (1 / own + count / 0.25), abs=1e-4)


def test_without_labels_nothing_is_off():
    shift, left = bias(Labels.new().right, torch.tensor([0.03, 0.2, 0.2]))
    assert not shift.any()
    torch.testing.assert_close(left, torch.tensor([0.03, 0.2, 0.2]))


def judged(calibration, other, known, size=40):
    """Verdicts of a stream, of which a part of the labels come one batch later."""
    state, verdicts, count = GuardState.new(calibration), [], 0
    truth = other.truth.argmax(1)
    for f, a, look in zip(*(e.split(size) for e in (other.frozen, other.adapted, other.looks))):
        for index in range(max(count - size, 0), count) if known else ():
            if index % known == 0:
                state.labels.learn(index, int(truth[index]))
        kept = torch.ones(len(f), dtype=torch.bool)
        verdicts.append(judge(f, a, look, kept, calibration, state, Rules()))
        state.labels.keep(count, verdicts[-1].answers)
        count += len(f)
    return verdicts


def test_labels_correct_a_calibration_that_is_wrong(calibration):
    """Here confident answers are wrong: as for the frozen classifier in the fog."""
    other = answered("other", 0.2, 0.6, count=2000, seed=3)
    certain = torch.where(other.frozen == other.frozen.amax(1, keepdim=True), 9.0, 0.0)
    other = replace(other, frozen=certain)
    truth = other.truth.argmax(1)
    share = float((certain.argmax(1) == truth)[-400:].float().mean())
    never, rare, often = (judged(calibration, other, known)[-1] for known in (0, 20, 2))
    off = [abs(each.estimate.frozen.value - share) for each in (never, rare, often)]
    assert off[0] > 0.3 and off[1] < 0.5 * off[0] and off[2] < 0.1
    assert never.share < often.share and often.answer == "adapted"


def test_labels_make_the_estimate_more_certain(calibration):
    """Where the calibration says of itself that it is rough."""
    calibration = replace(calibration, error=torch.tensor([0.2, 0.2]))
    other = answered("other", 0.6, 0.75, count=2000, seed=4)
    widths = []
    for known in (0, 10, 1):
        found = judged(calibration, other, known)[-1].estimate.adapted
        widths.append(found.high - found.low)
    assert widths[0] > widths[1] > widths[2]


@pytest.fixture
def guard(guarded, images):
    bundle = guarded("tent")
    guard = Guard(Adapter(bundle, "tent"), bundle)
    guard(images[:16])
    return guard


def test_the_estimate_follows_a_label_at_once(guard):
    before = guard.verdict
    for index in range(16):
        guard.reveal(index, 0)
    assert guard.verdict.estimate != before.estimate
    assert guard.verdict.use_adapted is before.use_adapted


def test_a_label_never_reaches_the_adapter(guard, images):
    state = guard.adapter.snapshot().tensors
    for index in range(16):
        guard.reveal(index, index % 3)
    after = guard.adapter.snapshot().tensors
    assert all(torch.equal(after[name], state[name]) for name in state)


def test_labels_go_with_the_stream(guard, images):
    state = guard.snapshot()
    for index in range(16):
        guard.reveal(index, 1)
    mine = guard.snapshot()
    guard.swap(state)
    guard.reveal(3, 1)  # of the other stream: not known there
    guard.swap(state)
    again = guard.snapshot()
    assert all(torch.equal(mine.tensors[name], again.tensors[name]) for name in mine.tensors)


def test_what_cannot_be_revealed_is_refused(guard, images, monkeypatch):
    classes = guard.adapter.model.num_classes
    for index, label, reason in (
        (0, classes, f"no class {classes}; labels are 0 to {classes - 1}"),
        (16, 0, "no image 16 has come, but 16"),
        (-1, 0, "no image -1 has come"),
    ):
        with pytest.raises(InputError, match=reason):
            guard.reveal(index, label)
    guard.reveal(5, 0)
    with pytest.raises(InputError, match="image 5 was not judged, or its label is known"):
        guard.reveal(5, 0)
    guard.mode = "off"
    guard(images[16:20])
    with pytest.raises(InputError, match="image 17 was not judged"):
        guard.reveal(17, 0)
    guard.mode = "bounded"
    for _ in range(8):
        guard(images[:128])
    with pytest.raises(InputError, match=f"image 19 is too long ago.* last {KEPT} images, from 20"):
        guard.reveal(19, 0)
    guard.reveal(20, 0)


def test_labels_of_before_a_change_are_left_out(guarded, images):
    bundle = guarded("tent")
    guard = Guard(Adapter(bundle, "tent"), bundle)
    for number in range(32):
        batch = images[(torch.arange(16) + 16 * number) % 160]
        guard(batch // 2 if number >= 20 else batch)
        if number == 19:
            for index in range(16):
                guard.reveal(index, 0)
            assert float(guard._memory.judged.labels.right.images) > 10
    assert float(guard._memory.judged.labels.right.images) < 1e-3
    guard.reveal(300, 0)
    assert float(guard._memory.judged.labels.right.images) < 1e-3
    guard.reveal(510, 0)
    assert float(guard._memory.judged.labels.right.images) == pytest.approx(1, abs=1e-2)


def test_a_batch_of_more_images_than_are_kept(calibration):
    other = answered("other", 0.6, 0.7, count=KEPT + 200)
    state = GuardState.new(calibration)
    every = torch.ones(KEPT + 200, dtype=torch.bool)
    verdict = judge(other.frozen, other.adapted, other.looks, every, calibration, state, Rules())
    state.labels.keep(100, verdict.answers)
    for index in (300, 100 + KEPT + 199):
        kept = state.labels.classes[index % KEPT].tolist()
        assert kept == [int(each[index - 100].argmax()) for each in (other.frozen, other.adapted)]
    assert NONE not in state.labels.classes
