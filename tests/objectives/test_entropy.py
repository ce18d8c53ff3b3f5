import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from acclimate.objectives.entropy import Entropy, entropies, entropy_loss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "losses.npz")


def draw(seed, batch, classes, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(batch, classes, generator=generator, dtype=torch.float64)


def plain(logits):
    """Each probability by itself."""
    total = 0.0
    for row in logits.tolist():
        weights = [math.exp(value) for value in row]
        shares = [weight / sum(weights) for weight in weights]
        total -= sum(share * math.log(share) for share in shares)
    return total / len(logits)


def test_golden_value():
    found = entropy_loss(torch.from_numpy(GOLDEN["tent_logits"]))
    assert found.item() == pytest.approx(float(GOLDEN["tent_entropy_mean"]), rel=1e-6)


drawn = {
    "seed": st.integers(0, 2**31),
    "batch": st.integers(1, 6),
    "classes": st.integers(2, 7),
    "scale": st.floats(0, 30),
}


@settings(deadline=None, max_examples=30)
@given(**drawn)
def test_value_and_gradient_equal_the_formulas(seed, batch, classes, scale):
    logits = draw(seed, batch, classes, scale).requires_grad_()
    loss = entropy_loss(logits)
    assert loss.item() == pytest.approx(plain(logits), rel=1e-9, abs=1e-12)
    (found,) = torch.autograd.grad(loss, logits)
    # dH/dz = -p (log p + H), of a mean over the batch.
    logs = logits.detach().log_softmax(1)
    entropy = -(logs.exp() * logs).sum(1, keepdim=True)
    torch.testing.assert_close(found, -logs.exp() * (logs + entropy) / batch)


@settings(deadline=None, max_examples=30)
@given(**drawn, shift=st.floats(-100, 100))
def test_lies_between_certain_and_even_and_does_not_see_a_shift(seed, batch, classes, scale, shift):
    logits = draw(seed, batch, classes, scale)
    loss = entropy_loss(logits)
    assert -1e-12 <= loss <= math.log(classes) + 1e-12
    torch.testing.assert_close(entropy_loss(logits + shift), loss, rtol=1e-9, atol=1e-12)


def test_extremes():
    assert entropy_loss(torch.zeros(3, 8)).item() == pytest.approx(math.log(8))
    certain = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    loss = entropy_loss(certain)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, certain)[0].isfinite().all()


def test_half_precision_logits_are_compared_in_float32():
    logits = draw(4, 40, 10).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = entropy_loss(logits)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(plain(logits), rel=1e-5)


@pytest.mark.parametrize("which", ["bundle", "group_norm_bundle"])
def test_predictions_grow_surer(which, images, request, descend):
    bundle = request.getfixturevalue(which)
    model = copy.deepcopy(bundle.classifier).train()
    objective = Entropy(model, bundle.preprocessing)
    assert not list(objective.parameters())
    scales = [
        p.requires_grad_()
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm)
        for p in module.parameters()
    ]
    (views,) = objective.draw(bundle.preprocessing.unit(images[:48]), 0, torch.arange(48))
    views = bundle.preprocessing.normalize(views)
    outcome = objective(model, views)
    assert torch.equal(outcome.losses, entropies(outcome.logits))
    losses = descend(scales, lambda step: objective(model, views).losses.mean(), steps=8, rate=0.03)
    assert losses[0] == pytest.approx(entropy_loss(bundle_logits(bundle, views)).item(), rel=1e-4)
    assert losses[-1] < 0.9 * losses[0]


def bundle_logits(bundle, views):
    with torch.no_grad():
        return copy.deepcopy(bundle.classifier).train()(views)
