import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from acclimate.backbones import Classifier
from acclimate.backbones.batch_norm import Control
from acclimate.errors import InputError
from acclimate.objectives.entropy import entropy_loss
from acclimate.objectives.invariance import Invariance, adversarial, reverse_kl
from acclimate.parts.normalisation import (
    AdaptiveBatchNorm,
    RunningStatistics,
    replace_batch_norms,
)
from acclimate.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(16, (0.5, 0.4, 0.3), (0.3, 0.2, 0.25))


def normal(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.fixture(params=["bundle", "group_norm_bundle"])
def model(request):
    """As in a step under running statistics; only the norms' scales and shifts learn."""
    model = learning(request.getfixturevalue(request.param).classifier)
    for module in model.modules():
        if isinstance(module, AdaptiveBatchNorm | nn.GroupNorm):
            module.requires_grad_()
    return model


def learning(model):
    """A copy whose batch norm is in the state in which it learns."""
    model = copy.deepcopy(model)
    replace_batch_norms(model, Control(learning=True), RunningStatistics())
    return model


@pytest.fixture
def drawn(model, images):
    objective = Invariance(model, PREPROCESSING)
    views, start = objective.draw(PREPROCESSING.unit(images[:24]), 1, torch.arange(24))
    return PREPROCESSING.normalize(views), start


def statistics(model):
    return {name: value.clone() for name, value in model.named_buffers()}


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 5),
    classes=st.integers(2, 6),
    scale=st.floats(0, 10),
)
def test_divergence_and_its_gradient_equal_the_plain_loop(seed, batch, classes, scale):
    shifted, clean = scale * normal(seed, 2, batch, classes)
    shifted.requires_grad_()
    found = reverse_kl(shifted, clean)
    for row, other, ours in zip(shifted.tolist(), clean.tolist(), found):
        p, q = (
            [math.exp(z) / sum(map(math.exp, values)) for z in values] for values in (row, other)
        )
        expected = sum(a * math.log(a / b) for a, b in zip(p, q))
        assert ours.item() == pytest.approx(expected, rel=1e-8, abs=1e-12)
    (gradient,) = torch.autograd.grad(found.sum(), shifted)
    p, ratio = shifted.detach().softmax(1), shifted.detach().log_softmax(1) - clean.log_softmax(1)
    torch.testing.assert_close(gradient, p * (ratio - (p * ratio).sum(1, keepdim=True)))


def test_divergence_of_half_precision_logits_is_computed_in_float32():
    shifted, clean = normal(1, 2, 8, 5).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = reverse_kl(shifted, clean)
    assert found.dtype == torch.float32
    expected = reverse_kl(shifted.double(), clean.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_shift_on_a_linear_model_is_the_sign_that_a_loop_finds():
    weights, views, start = normal(2, 4, 12), normal(3, 6, 3, 2, 2), normal(4, 6, 3, 2, 2)
    start = start.clamp(-1, 1)
    epsilon = torch.tensor([0.01, 0.02, 0.03]).double()[:, None, None]

    def model(x):
        return x.flatten(1) @ weights.T

    found = adversarial(model, views, model(views), start, epsilon)
    for view, begin, ours in zip(views, start, found):
        shift = (begin * epsilon).flatten()
        p, q = (weights @ (view.flatten() + s) for s in (shift, torch.zeros(12)))
        p, ratio = p.softmax(0), p.log_softmax(0) - q.log_softmax(0)
        gradient = weights.T @ (p * (ratio - (p * ratio).sum()))
        bound = epsilon.expand(3, 2, 2).flatten()
        step = torch.where(gradient > 0, shift + bound, shift - bound)
        expected = torch.maximum(torch.minimum(step, bound), -bound)
        torch.testing.assert_close((ours - view).flatten(), expected)


def test_shift_stays_within_epsilon_of_the_pixels_and_beats_random_ones(model, drawn):
    views, start = drawn
    objective = Invariance(model, PREPROCESSING, epsilon=4 / 255)
    clean = model(views).detach()
    found = adversarial(model, views, clean, start, objective.epsilon)
    in_pixels = (found - views) * torch.tensor(PREPROCESSING.std)[:, None, None]
    assert 3.9 / 255 < in_pixels.abs().max() < 4.01 / 255
    edges = views + start.sign() * objective.epsilon
    with torch.no_grad():
        ours, random = (reverse_kl(model(x), clean).sum() for x in (found, edges))
    assert ours > 2 * random


def test_starts_are_even_in_minus_one_to_one_and_depend_on_key_and_number_alone(images):
    objective = Invariance(None, PREPROCESSING)
    unit, index = PREPROCESSING.unit(images[:8]), torch.arange(70, 78)
    views, start = objective.draw(unit, 3, index)
    assert torch.equal(views, unit) and start.shape == unit.shape
    assert -1 <= start.min() < -0.99 and 0.99 < start.max() < 1
    assert abs(start.mean()) < 0.05 and abs(start.var() - 1 / 3) < 0.03
    order = torch.tensor([5, 2, 7])
    assert torch.equal(objective.draw(unit[order], 3, index[order])[1], start[order])
    assert not torch.equal(objective.draw(unit, 4, index)[1], start)


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_loss_is_the_sum_over_images_of_divergence_and_weighed_entropy(model, drawn, weight):
    views, start = drawn
    objective = Invariance(model, PREPROCESSING, entropy=weight)
    found, logits, *_ = objective(model, views, start)
    clean = model(views)
    torch.testing.assert_close(logits, clean.detach())
    assert not logits.requires_grad
    shifted = adversarial(model, views, clean.detach(), start, objective.epsilon)
    expected = reverse_kl(model(shifted), clean.detach()).sum()
    expected = expected + weight * len(views) * entropy_loss(clean)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    learn = [p for p in model.parameters() if p.requires_grad]
    ours, theirs = (torch.autograd.grad(loss, learn) for loss in (found, expected))
    largest = max(g.abs().max() for g in theirs)
    for gradient, other in zip(ours, theirs):
        torch.testing.assert_close(gradient, other, rtol=1e-2, atol=1e-3 * largest)


def test_only_the_clean_images_enter_the_running_statistics(model, drawn):
    alone = copy.deepcopy(model)
    alone(drawn[0])
    before = statistics(model)
    Invariance(model, PREPROCESSING)(model, *drawn).losses.backward()
    after, expected = statistics(model), statistics(alone)
    assert all(torch.equal(after[name], value) for name, value in expected.items())
    assert not before or any(not torch.equal(after[name], value) for name, value in before.items())


def test_statistics_of_the_shifted_copy_are_its_own():
    """With a copy far from its images, only its own statistics bring it back to mean 0."""
    norm = nn.BatchNorm2d(3)
    seen = []
    norm.register_forward_hook(lambda *call: seen.append(call[2].detach().mean((0, 2, 3))))
    model = Classifier(nn.Sequential(norm, nn.Flatten()), nn.Linear(48, 2))
    objective = Invariance(model, PREPROCESSING, epsilon=50.0)
    objective(model, torch.rand(16, 3, 4, 4), torch.ones(16, 3, 4, 4))
    assert len(seen) == 3 and all(mean.abs().max() < 1e-3 for mean in seen)


def test_evaluation_mode_uses_the_source_statistics_and_keeps_them(bundle, images):
    model = copy.deepcopy(bundle.classifier)
    before = statistics(model)
    objective = Invariance(model, PREPROCESSING)
    unit = PREPROCESSING.unit(images[:10])
    views, start = objective.draw(unit, 0, torch.arange(10))
    views = PREPROCESSING.normalize(views)
    whole = objective(model, views, start).losses
    parts = sum(objective(model, views[i : i + 1], start[i : i + 1]).losses for i in range(10))
    torch.testing.assert_close(whole, parts, rtol=1e-3, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in statistics(model).items())
    assert not model.training


def test_a_failure_leaves_batch_norm_as_it_was(bundle):
    model = learning(bundle.classifier)
    norms = [m for m in model.modules() if isinstance(m, AdaptiveBatchNorm)]
    views = torch.rand(4, 3, 16, 16)

    def fail(norm, inputs):
        if norm.control.apart:
            raise RuntimeError("no memory left")

    norms[-1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no memory left"):
        Invariance(model, PREPROCESSING)(model, views, torch.rand(4, 3, 16, 16))
    assert not any(norm.control.apart for norm in norms)


def test_finding_the_shift_leaves_no_gradients(model, drawn):
    objective = Invariance(model, PREPROCESSING)
    loss = objective(model, *drawn).losses
    assert all(p.grad is None for p in model.parameters())
    loss.backward()
    for parameter in model.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad
    assert any(p.grad.any() for p in model.parameters() if p.requires_grad)


def test_value_is_there_without_gradients_too(model, drawn):
    objective = Invariance(model, PREPROCESSING)
    expected = objective(model, *drawn).losses
    with torch.no_grad():
        found = objective(model, *drawn).losses
    assert not found.requires_grad
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("moving", ["norms", "all"])
def test_works_under_bf16_autocast(model, drawn, moving):
    if moving == "all":
        model.requires_grad_()
    objective = Invariance(model, PREPROCESSING, epsilon=0.1)
    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
        loss = objective(model, *drawn).losses
    loss.backward()
    assert loss.dtype == torch.float32
    learn = [p for p in model.encoder.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learn)
    exact = objective(model, *drawn).losses
    torch.testing.assert_close(loss, exact, rtol=0.25, atol=0)


def test_predictions_grow_invariant(model, drawn):
    objective = Invariance(model, PREPROCESSING, epsilon=8 / 255)
    learn = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learn, 2 / len(drawn[0]), momentum=0.9)
    losses = []
    for _ in range(15):
        loss = objective(model, *drawn).losses
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    "options",
    [{"epsilon": 0.0}, {"epsilon": math.nan}, {"epsilon": math.inf}, {"entropy": -1.0}],
)
def test_what_is_refused(options):
    with pytest.raises(InputError, match="epsilon above 0 and an entropy weight of 0 or more"):
        Invariance(None, PREPROCESSING, **options)
