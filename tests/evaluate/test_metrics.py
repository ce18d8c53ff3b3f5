import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from acclimate.evaluate.metrics import expected_calibration_error

ANSWERS = st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=60)


def slow_error(confidence, correct, bins):
    """Guo et al. 2017, Eq. 3, as it is written: a sum over bins of |B| / n · |acc(B) − conf(B)|."""
    total = 0.0
    for m in range(bins):
        inside = [
            (p, right)
            for p, right in zip(confidence, correct)
            if m / bins < p <= (m + 1) / bins or (m == 0 and p == 0)
        ]
        if inside:
            accuracy = sum(right for _, right in inside) / len(inside)
            mean = sum(p for p, _ in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return total


@settings(deadline=None, max_examples=60)
@given(ANSWERS, st.integers(1, 20))
def test_equals_the_definition(answers, bins):
    confidence, correct = zip(*answers)
    # On an edge the bin is a matter of rounding.
    assume(all(p in (0, 1) or abs(p * bins - round(p * bins)) > 1e-5 for p in confidence))
    found = expected_calibration_error(torch.tensor(confidence), torch.tensor(correct), bins)
    assert found == pytest.approx(slow_error(confidence, correct, bins), abs=1e-6)


def test_certain_answers():
    right, wrong = torch.ones(5, dtype=torch.bool), torch.zeros(5, dtype=torch.bool)
    assert expected_calibration_error(torch.ones(5), right) == 0
    assert expected_calibration_error(torch.ones(5), wrong) == 1
    assert expected_calibration_error(torch.zeros(5), wrong) == 0


def test_over_and_under_confidence_cancel_only_within_a_bin():
    confidence = torch.tensor([0.5, 0.5])
    assert expected_calibration_error(confidence, torch.tensor([True, False])) == 0
    confidence = torch.tensor([0.9, 0.6])
    error = expected_calibration_error(confidence, torch.tensor([True, False]))
    assert error == pytest.approx((0.1 + 0.6) / 2)
