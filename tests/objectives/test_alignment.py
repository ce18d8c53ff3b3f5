from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.objectives import alignment_loss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "losses.npz")


def draw(seed, batch, dim):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, batch, dim, generator=generator, dtype=torch.float64).unbind(0)


def plain(first, second, target, temperature, reduction):
    """Eq. 4 as it is printed: one exponential at a time."""
    n = len(first)
    everything = [*first, *second, *target]

    def exponential(a, b):
        return torch.exp(a @ b / (a.norm() * b.norm()) / temperature)

    total = torch.zeros((), dtype=first.dtype)
    for a in range(2 * n):
        others = sum(exponential(everything[a], everything[s]) for s in range(3 * n) if s != a)
        total = total - torch.log(exponential(everything[a], target[a % n]) / others)
    return total / (2 * n) if reduction == "mean" else total


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_golden_values(temperature):
    features = [torch.from_numpy(GOLDEN[name]) for name in ("h_hat", "h_tilde", "w")]
    expected = float(GOLDEN[f"cta_eq4_sum_t{temperature}"])
    found = alignment_loss(*features, temperature=temperature, reduction="sum")
    assert found.item() == pytest.approx(expected, rel=1e-5)
    mean = alignment_loss(*features, temperature=temperature)
    assert mean.item() == pytest.approx(expected / 32, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_value_and_gradients_equal_the_double_loop(
    temperature, reduction, assert_same_with_gradients
):
    features = [f.requires_grad_() for f in draw(1, batch=5, dim=4)]
    arguments = {"temperature": temperature, "reduction": reduction}
    found, expected = alignment_loss(*features, **arguments), plain(*features, **arguments)
    assert_same_with_gradients(found, expected, features)


def test_bf16_autocast_at_a_low_temperature(assert_precise_in_bf16):
    first, second, target = draw(2, batch=16, dim=6)
    assert_precise_in_bf16(
        partial(alignment_loss, temperature=0.01),
        lambda *features: plain(*features, 0.01, "mean"),
        [target + 0.3 * first, target + 0.3 * second, target],
    )


batches = {
    "seed": st.integers(0, 2**31),
    "batch": st.integers(2, 9),
    "dim": st.integers(1, 6),
    "temperature": st.floats(0.01, 10),
}


@settings(deadline=None, max_examples=30)
@given(**batches)
def test_neither_order_of_the_batch_nor_of_the_views_matters(seed, batch, dim, temperature):
    first, second, target = draw(seed, batch, dim)
    loss = alignment_loss(first, second, target, temperature=temperature)
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        alignment_loss(first[order], second[order], target[order], temperature=temperature), loss
    )
    torch.testing.assert_close(alignment_loss(second, first, target, temperature=temperature), loss)


@settings(deadline=None, max_examples=30)
@given(**batches, scale=st.floats(1e-3, 1e3), which=st.integers(0, 100))
def test_length_of_a_feature_does_not_matter(seed, batch, dim, temperature, scale, which):
    features = torch.cat(draw(seed, batch, dim))
    expected = alignment_loss(*features.chunk(3), temperature=temperature)
    features[which % (3 * batch)] *= scale
    torch.testing.assert_close(
        alignment_loss(*features.chunk(3), temperature=temperature), expected
    )


@pytest.mark.parametrize(
    "shapes, temperature, message",
    [
        ([(1, 4)] * 3, 0.5, "two images"),
        ([(3, 4), (3, 4), (4, 4)], 0.5, "shape"),
        ([(3, 4), (3, 4), (3, 5)], 0.5, "shape"),
        ([(3, 4), (2, 4), (3, 4)], 0.5, "shape"),
        ([(3,)] * 3, 0.5, "shape"),
        ([(3, 4)] * 3, 0.0, "temperature"),
        ([(3, 4)] * 3, -1.0, "temperature"),
    ],
)
def test_what_is_refused(shapes, temperature, message):
    with pytest.raises(ValueError, match=message):
        alignment_loss(*map(torch.ones, shapes), temperature=temperature)
