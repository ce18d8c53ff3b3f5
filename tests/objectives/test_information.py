import math

import pytest
import torch
from golden_values import assert_golden, golden
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.objectives.information import information_losses

LOGITS = st.lists(st.lists(st.floats(-300, 300), min_size=4, max_size=4), min_size=1, max_size=6)


def slow(rows, inside=0.0):
    """The mean entropy, and that of the mean prediction; with a number inside the logarithms."""
    predictions = []
    for row in rows:
        exps = [math.exp(z - max(row)) for z in row]
        predictions.append([e / sum(exps) for e in exps])
    mean = [sum(column) / len(rows) for column in zip(*predictions)]

    def entropy(p):
        return -sum(x * math.log(x + inside) for x in p if x + inside > 0)

    return sum(map(entropy, predictions)) / len(rows), entropy(mean)


def test_it_is_the_equation_s_value():
    assert_golden(information_losses(golden("shot_logits")).mean(), "shot_im_loss")


def test_the_release_adds_a_small_number_inside_the_logarithm():
    """Its values are the plain loop's with 1e-5; our gradient differs from its by no more."""
    rows = golden("shot_logits").tolist()
    conditional, marginal = slow(rows, 1e-5)
    assert conditional == pytest.approx(float(golden("shot_conditional_entropy_as_released")))
    assert marginal == pytest.approx(float(golden("shot_marginal_entropy_as_released")))
    assert conditional - marginal == pytest.approx(float(golden("shot_im_loss_as_released")))
    z = golden("shot_logits").requires_grad_()
    information_losses(z).mean().backward()
    assert_golden(z.grad, "shot_im_grad_logits_as_released", rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(LOGITS)
def test_it_is_the_plain_loop_bounded_and_finite(rows):
    z = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    loss = information_losses(z).mean()
    conditional, marginal = slow(rows)
    assert loss.item() == pytest.approx(conditional - marginal, abs=1e-9)
    assert -math.log(4) - 1e-9 <= loss.item() <= 1e-9
    loss.backward()
    assert z.grad.isfinite().all()


def test_the_best_are_certain_predictions_of_all_classes_alike():
    assert information_losses(1e3 * torch.eye(4)).mean().item() == pytest.approx(-math.log(4))


def test_identical_images_have_no_information():
    z = torch.randn(1, 5, dtype=torch.float64).expand(8, 5).clone().requires_grad_()
    loss = information_losses(z).mean()
    loss.backward()
    assert abs(loss.item()) < 1e-12 and z.grad.abs().max() < 1e-12
