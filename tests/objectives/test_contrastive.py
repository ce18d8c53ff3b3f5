from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from acclimate.backbones import Classifier
from acclimate.objectives import Contrastive, contrastive_loss
from acclimate.preprocessing import Preprocessing
from acclimate.views import SimCLRViews, simclr_views

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "losses.npz")


def draw(seed, batch, dim, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, batch, dim, generator=generator, dtype=dtype).unbind(0)


def plain(first, second, temperature, both_directions, reduction):
    """Eq. 1 as it is printed: one exponential at a time."""
    n = len(first)
    views = [*first, *second]

    def exponential(a, b):
        return torch.exp(a @ b / (a.norm() * b.norm()) / temperature)

    terms = []
    for i in range(2 * n if both_directions else n):
        others = sum(exponential(views[i], views[j]) for j in range(2 * n) if j != i)
        terms.append(-torch.log(exponential(views[i], views[(i + n) % (2 * n)]) / others))
    total = sum(terms)
    return total / len(terms) if reduction == "mean" else total


@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize("both, key", [(False, "eq1"), (True, "eq1_both_directions")])
def test_golden_values(temperature, both, key):
    first, second = (torch.from_numpy(GOLDEN[name]) for name in ("h_hat", "h_tilde"))
    expected = float(GOLDEN[f"cta_{key}_sum_t{temperature}"])
    found = contrastive_loss(
        first, second, temperature=temperature, both_directions=both, reduction="sum"
    )
    assert found.item() == pytest.approx(expected, rel=1e-5)
    mean = contrastive_loss(first, second, temperature=temperature, both_directions=both)
    assert mean.item() == pytest.approx(expected / (32 if both else 16), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_value_and_gradients_equal_the_double_loop(
    temperature, both, reduction, assert_same_with_gradients
):
    features = [f.requires_grad_() for f in draw(1, batch=5, dim=4)]
    arguments = {"temperature": temperature, "both_directions": both, "reduction": reduction}
    found, expected = contrastive_loss(*features, **arguments), plain(*features, **arguments)
    assert_same_with_gradients(found, expected, features)


def test_bf16_autocast_at_a_low_temperature(assert_precise_in_bf16):
    first, second = draw(2, batch=24, dim=6)
    assert_precise_in_bf16(
        partial(contrastive_loss, temperature=0.01),
        lambda *features: plain(*features, 0.01, True, "mean"),
        # Views of one image are alike, so that the loss is small and an error would show.
        [first, first + 0.3 * second],
    )


def test_half_precision_features_are_compared_in_float32():
    halves = [f.bfloat16() for f in draw(3, batch=12, dim=16)]
    expected = plain(*(f.double() for f in halves), 0.01, True, "mean")
    with torch.autocast("cpu", torch.bfloat16):
        found = contrastive_loss(*halves, temperature=0.01)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


batches = {
    "seed": st.integers(0, 2**31),
    "batch": st.integers(2, 9),
    "dim": st.integers(1, 6),
    "temperature": st.floats(0.01, 10),
    "both": st.booleans(),
}


@settings(deadline=None, max_examples=30)
@given(**batches)
def test_order_of_the_batch_does_not_matter(seed, batch, dim, temperature, both):
    first, second = draw(seed, batch, dim)
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    arguments = {"temperature": temperature, "both_directions": both}
    torch.testing.assert_close(
        contrastive_loss(first[order], second[order], **arguments),
        contrastive_loss(first, second, **arguments),
    )


@settings(deadline=None, max_examples=30)
@given(**batches, scale=st.floats(1e-3, 1e3), which=st.integers(0, 100))
def test_length_of_a_feature_does_not_matter(seed, batch, dim, temperature, both, scale, which):
    first, second = draw(seed, batch, dim)
    arguments = {"temperature": temperature, "both_directions": both}
    expected = contrastive_loss(first, second, **arguments)
    scaled = torch.cat([first, second])
    scaled[which % (2 * batch)] *= scale
    torch.testing.assert_close(contrastive_loss(*scaled.chunk(2), **arguments), expected)


@settings(deadline=None, max_examples=30)
@given(**batches)
def test_both_directions_are_symmetric_and_the_mean_of_each(seed, batch, dim, temperature, both):
    first, second = draw(seed, batch, dim)
    loss = contrastive_loss(first, second, temperature=temperature)
    torch.testing.assert_close(contrastive_loss(second, first, temperature=temperature), loss)
    one_way = [
        contrastive_loss(*views, temperature=temperature, both_directions=False)
        for views in ((first, second), (second, first))
    ]
    torch.testing.assert_close(torch.stack(one_way).mean(), loss)


def test_features_of_zeros_give_finite_gradients():
    features = [torch.zeros(3, 4, requires_grad=True) for _ in range(2)]
    loss = contrastive_loss(*features, temperature=0.01)
    assert loss.item() == pytest.approx(np.log(5))
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, features))


@pytest.mark.parametrize(
    "first, second, temperature, message",
    [
        ((1, 4), (1, 4), 0.5, "two images"),
        ((0, 4), (0, 4), 0.5, "two images"),
        ((3, 4), (4, 4), 0.5, "shape"),
        ((3, 4), (3, 5), 0.5, "shape"),
        ((3,), (3,), 0.5, "shape"),
        ((3, 4, 1), (3, 4, 1), 0.5, "shape"),
        ((3, 4), (3, 4), 0.0, "temperature"),
        ((3, 4), (3, 4), -0.1, "temperature"),
        ((3, 4), (3, 4), float("nan"), "temperature"),
    ],
)
def test_what_is_refused(first, second, temperature, message):
    with pytest.raises(ValueError, match=message):
        contrastive_loss(torch.ones(first), torch.ones(second), temperature=temperature)


def test_objective_is_the_loss_of_the_encoders_features():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
    model = Classifier(encoder, nn.Linear(5, 2))
    objective = Contrastive(model, Preprocessing(8), temperature=0.3, views={"smallest_crop": 0.5})
    images, index = torch.rand(4, 3, 8, 8), torch.arange(4)
    (views,) = objective.draw(images, 7, index)
    expected = simclr_views(images, SimCLRViews(smallest_crop=0.5), key=7, index=index, count=2)
    assert torch.equal(views, expected) and views.shape == (8, 3, 8, 8)
    torch.testing.assert_close(
        objective(model, views),
        contrastive_loss(encoder(views[:4]), encoder(views[4:]), temperature=0.3),
    )
