"""Marginal entropy against MEMO's release, a plain loop, and what it is to mean."""

import math

import pytest
import torch
from golden_values import assert_golden, golden
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.errors import InputError
from acclimate.objectives import MarginalEntropy, MarginalEntropyOptions, marginal_entropies
from acclimate.preprocessing import Preprocessing
from acclimate.views import augmix_views


def test_it_is_the_release_s():
    logits = golden("memo_logits").requires_grad_()
    loss = marginal_entropies(logits[None]).sum()
    loss.backward()
    assert_golden(loss, "memo_marginal_entropy")
    assert_golden(logits.grad, "memo_grad_logits")
    mean = golden("memo_log_mean_probabilities")
    torch.testing.assert_close(loss.detach(), -(mean.exp() * mean).sum())


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(2, 6), st.floats(0, 300))
def test_it_is_the_entropy_of_the_mean_prediction(batch, views, classes, scale):
    generator = torch.Generator().manual_seed(batch)
    logits = scale * torch.randn(batch, views, classes, generator=generator).double()
    found = marginal_entropies(logits)
    for image, entropy in zip(logits.tolist(), found.tolist()):
        mean = [0.0] * classes
        for view in image:
            powers = [math.exp(x - max(view)) for x in view]
            mean = [m + p / sum(powers) / views for m, p in zip(mean, powers)]
        expected = -sum(m * math.log(m) for m in mean if m > 0)
        assert entropy == pytest.approx(expected, abs=1e-9)
        assert -1e-12 <= entropy <= math.log(classes) + 1e-12


def test_views_that_disagree_are_uncertain_though_each_is_certain():
    agreeing = torch.tensor([[[50.0, 0.0], [50.0, 0.0]]])
    disagreeing = torch.tensor([[[50.0, 0.0], [0.0, 50.0]]])
    assert marginal_entropies(agreeing).item() == pytest.approx(0)
    assert marginal_entropies(disagreeing).item() == pytest.approx(math.log(2))


def test_an_image_s_loss_is_of_its_own_views():
    preprocessing = Preprocessing(12, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    objective = MarginalEntropy(None, preprocessing, views=3)
    images = torch.rand(4, 3, 12, 12)
    index = torch.arange(10, 14)

    def model(views):
        return 9 * views.flatten(2).mean(2)

    (views,) = objective.draw(images, 7, index)
    losses = objective(model, views)
    assert losses.shape == (4,)
    for number in range(4):
        one = slice(number, number + 1)
        own = augmix_views(images[one], key=7, index=index[one], count=3)
        torch.testing.assert_close(losses[one], marginal_entropies(model(own)[None]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": 0}, "views must be 1 to 1000, not 0"),
        ({"smallest_crop": 0.0}, "smallest_crop must lie above 0 and at most at 1, not 0.0"),
        ({"smallest_crop": float("nan")}, "smallest_crop must lie above 0"),
    ],
)
def test_options_that_cannot_be_meant(changes, message):
    with pytest.raises(InputError, match=message):
        MarginalEntropyOptions(**changes).check()
