import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acclimate.errors import InputError
from acclimate.guard.calibration import Answered, Calibration, by_agreement, calibrated, seen
from acclimate.guard.signals import features, signals

from .conftest import CLASSES, answered


def test_more_certain_answers_are_likelier_right(calibration):
    x = torch.zeros(2, len(calibration.better.curve.weights)) + calibration.better.curve.mean
    x[0, 0] -= 2  # a less certain frozen answer
    x[0, 1] += 2
    nothing = torch.zeros(2, len(calibration.places.of_sets))
    sure, unsure = calibration.better(x, nothing).tolist()
    assert sure > unsure


def test_estimates_are_right_under_a_shift_it_has_not_seen(calibration):
    other = answered("other", 0.45, 0.72, seed=50)
    each = signals(other.frozen, other.adapted)
    x = seen(each, each.mean(0))
    for curve, logits, error in (
        (calibration.frozen, other.frozen, calibration.error[0]),
        (calibration.adapted, other.adapted, calibration.error[1]),
    ):
        truth = other.truth.gather(1, logits.argmax(1, keepdim=True)).mean()
        alike = calibration.places.alike(other.looks.mean(0))
        assert abs(curve(x, alike).mean() - truth) < 0.1
        assert 0 < error < 0.2


def test_of_two_answers_the_better_one_is_told(calibration):
    for frozen, adapted in ((0.35, 0.75), (0.9, 0.3)):
        other = answered("other", frozen, adapted, seed=70)
        each = signals(other.frozen, other.adapted)
        differ = each[:, 2] == 0
        alike = calibration.places.alike(other.looks.mean(0))
        chance = calibration.better(features(each, each.mean(0)), alike)[differ].mean()
        assert (chance > 0.5) == (adapted > frozen)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1), st.integers(2, 9))
def test_the_adapted_answer_tells_of_the_frozen_one_as_drawing_classes_does(images, classes):
    """The adapted answer is class 0, the frozen one 0 or 1; the true class is drawn."""
    agree = torch.tensor([float(same) for same, _ in images])
    adapted = torch.tensor([chance for _, chance in images])
    found = by_agreement(agree, adapted, classes)
    for (same, chance), one in zip(images, found.tolist(), strict=True):
        of_class = [chance] + [(1 - chance) / (classes - 1)] * (classes - 1)
        assert one == pytest.approx(of_class[0 if same else 1], abs=1e-6)


def test_a_bundle_keeps_it(calibration):
    tensors = calibration.tensors("twin.guard.")
    assert all(name.startswith("twin.guard.") for name in tensors)
    again = Calibration.of(tensors, "twin")
    for name, tensor in again.tensors("twin.guard.").items():
        assert torch.equal(tensor, tensors[name])


def test_a_bundle_without_it_is_refused():
    with pytest.raises(InputError, match=r"no calibration of a guard for its twin; add it with"):
        Calibration.of({}, "twin")


def test_one_of_an_older_version_is_refused(calibration):
    tensors = calibration.tensors("twin.guard.")
    older = {n: e for n, e in tensors.items() if ".places." not in n and not n.endswith(".by_set")}
    with pytest.raises(
        InputError, match=r"twin is of an older version; make a new one with acclimate"
    ):
        Calibration.of(older, "twin")


def test_two_models_that_never_differ_give_no_preference():
    same = answered("none", 0.8, 0.8)
    alike = dataclasses.replace(same, adapted=same.frozen)
    found = calibrated([alike])
    x = torch.zeros(1, len(found.better.curve.weights))
    assert float(found.better(x, torch.zeros(1))) == 0.5


@pytest.mark.parametrize("agree", [True, False])
def test_its_error_is_that_of_estimating_each_shift_by_the_others(agree):
    """Answers and looks are the same under all shifts, so that a curve knows the others' mean."""
    count, rates = 400, {"none": (0.8, 0.7), "noise": (0.6, 0.7), "blur": (0.3, 0.4)}
    frozen = torch.zeros(count, CLASSES)
    frozen[:, 0] = 3.0
    adapted = frozen if agree else frozen.roll(1, 1)
    looks, sizes = torch.randn(count, 5), [40] * (count // 40)
    sets = []
    for shift, (of_frozen, of_adapted) in rates.items():
        truth = torch.zeros(count, CLASSES)
        truth[:, 1] = of_adapted
        truth[:, 0] = of_frozen
        sets.append(Answered(shift, False, False, looks, frozen, adapted, sizes, truth))
    expected = []
    for shift, right in rates.items():
        f, a = torch.tensor([each for name, each in rates.items() if name != shift]).mean(0)
        if agree:
            expected.append([(f - right[0]) ** 2, (f - right[0]) ** 2])
            continue
        other = (1 - a) / (CLASSES - 1)
        apart = ((f - other) / 2) ** 2
        beyond = (((f + other) / 2 - right[0]) ** 2 - apart).clamp(min=0)
        expected.append([beyond, (a - right[1]) ** 2])
    error = torch.tensor(expected).mean(0).sqrt()
    torch.testing.assert_close(calibrated(sets).error, error, rtol=0, atol=0.01)
