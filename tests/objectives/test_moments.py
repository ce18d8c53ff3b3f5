import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from acclimate.backbones import Classifier
from acclimate.errors import InputError
from acclimate.objectives.contrastive import contrastive_loss
from acclimate.objectives.feature_moments import (
    Moments,
    _moments,
    _moments_of_some,
    coral_loss,
    linear_mmd_loss,
)
from acclimate.objectives.moments import ContrastiveMoments
from acclimate.preprocessing import Preprocessing

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "losses.npz")
PREPROCESSING = Preprocessing(8)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small_model(dim=5):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, dim), nn.Tanh())
    return Classifier(encoder, nn.Linear(dim, 2))


def observed(model, *, queue=8, batches=6, **options):
    """An objective that has seen ``batches`` batches of 8 source images."""
    torch.manual_seed(1)
    objective = ContrastiveMoments(model, PREPROCESSING, projection=4, queue=queue, **options)
    source = torch.randn(batches, 8, 3, 8, 8)
    objective.observe(model, source)
    return objective, source.flatten(0, 1)


def test_golden_values():
    source, target = (torch.from_numpy(GOLDEN[f"moments_{name}"]) for name in ("source", "target"))
    coral = coral_loss(source.T.cov(), target.T.cov())
    assert coral.item() == pytest.approx(float(GOLDEN["tttpp_coral"]), rel=1e-4)
    mmd = linear_mmd_loss(source.mean(0), target.mean(0))
    assert mmd.item() == pytest.approx(float(GOLDEN["tttpp_linear_mmd"]), rel=1e-4)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_golden_contrastive_value(temperature):
    first, second = (torch.from_numpy(GOLDEN[name]) for name in ("h_hat", "h_tilde"))
    found = contrastive_loss(first, second, temperature=temperature)
    expected = float(GOLDEN[f"tttpp_supcon_t{temperature}"])
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_losses_equal_the_plain_sums():
    a, b = normal(3, 3, seed=1), normal(3, 3, seed=2)
    squares = sum((a[i, j] - b[i, j]) ** 2 for i in range(3) for j in range(3))
    torch.testing.assert_close(coral_loss(a, b), squares / (4 * 3**2))
    squares = sum((a[0, i] - b[0, i]) ** 2 for i in range(3))
    torch.testing.assert_close(linear_mmd_loss(a[0], b[0]), squares / 3)


def test_observed_moments_and_variation_equal_the_definition():
    model = small_model()
    objective, source = observed(model, queue=20, batches=11)  # 4 samples of 20, and 8 images
    features = model.encoder(source).detach()
    for found, values in (
        (objective.features, features),
        (objective.projections, objective.contrastive.projector(features).detach()),
    ):
        torch.testing.assert_close(found.covariance, values.T.cov(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.mean, values.mean(0), rtol=1e-4, atol=1e-6)
        first, *others = values[:80].split(20)
        coral = [coral_loss(first.T.cov(), other.T.cov()) for other in others]
        mmd = [linear_mmd_loss(first.mean(0), other.mean(0)) for other in others]
        expected = torch.stack([sum(coral) / 3, sum(mmd) / 3])
        torch.testing.assert_close(found.variation, expected, rtol=1e-3, atol=1e-8)


def known(dim, queue):
    """Moments of a source, made up."""
    moments = Moments(dim, queue).double()
    moments.mean.copy_(normal(dim, seed=3))
    moments.covariance.copy_(normal(dim, dim, seed=4))
    moments.variation.copy_(torch.tensor([0.5, 0.25]))
    return moments


def distance(moments, features):
    """The definition, of features that are all at hand."""
    coral = coral_loss(moments.covariance, features.T.cov())
    return coral / 0.5 + 0.5 * linear_mmd_loss(moments.mean, features.mean(0)) / 0.25


@settings(deadline=None, max_examples=25)
@given(queue=st.integers(3, 20), batch=st.integers(2, 6), steps=st.integers(1, 3))
def test_the_queue_holds_the_latest_images_once(queue, batch, steps):
    moments = known(4, queue)
    history = torch.zeros(0, 4, dtype=torch.float64)
    for turn in range(5):
        index = torch.arange(turn * batch, (turn + 1) * batch)
        for step in range(steps):
            features = normal(batch, 4, seed=100 * turn + step).requires_grad_()
            found = moments(features, index)
            window = torch.cat([history, features])[-max(queue, batch) :]
            if batch >= queue:
                window = features
            expected = distance(moments, window)
            torch.testing.assert_close(found, expected)
            ours, theirs = (torch.autograd.grad(x, features)[0] for x in (found, expected))
            torch.testing.assert_close(ours, theirs)
        history = torch.cat([history, features.detach()])


def test_buffers_change_in_place_and_restore():
    moments = known(4, 10)
    state = copy.deepcopy(moments.state_dict())
    places = {name: buffer.data_ptr() for name, buffer in moments.named_buffers()}
    batches = [(normal(3, 4, seed=s), torch.arange(3 * s, 3 * s + 3)) for s in range(3)]
    first = [moments(*batch) for batch in batches]
    assert {name: buffer.data_ptr() for name, buffer in moments.named_buffers()} == places
    assert torch.stack([moments(*batch) for batch in batches])[0] != first[0]
    moments.load_state_dict(state)
    again = [moments(*batch) for batch in batches]
    torch.testing.assert_close(torch.stack(again), torch.stack(first), rtol=0, atol=0)


def test_features_that_are_not_finite_do_not_stay():
    moments = known(4, 10)
    good, bad = normal(3, 4, seed=1), normal(3, 4, seed=2)
    bad[1, 2] = torch.nan
    moments(bad, torch.arange(3))
    found = moments(good, torch.arange(3, 6))
    torch.testing.assert_close(found, distance(moments, torch.cat([bad[[0, 2]], good])))


def test_bf16_features_are_compared_in_float32():
    moments = known(4, 10).float()
    features = (100 + normal(8, 4)).bfloat16()
    expected = distance(known(4, 10), features.double())
    with torch.autocast("cpu", torch.bfloat16):
        found = moments(features, torch.arange(8))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)


def test_deployment_loss_is_the_sum_of_its_terms():
    model = small_model()
    options = {"feature_weight": 0.3, "projection_weight": 0.7}
    objective, _ = observed(model, temperature=0.4, **options)
    images, index = torch.rand(6, 3, 8, 8), torch.arange(6)
    views, same = objective.draw(images, 5, index)
    assert torch.equal(same, index) and torch.equal(views[12:], images)
    (pairs,) = objective.source_draw(images, 5, index)
    assert torch.equal(views[:12], pairs)
    untouched = copy.deepcopy(objective)
    projector = objective.contrastive.projector
    halves = projector(model.encoder(pairs)).chunk(2)
    contrastive = contrastive_loss(*halves, temperature=0.4)
    torch.testing.assert_close(objective.source_loss(model, pairs), contrastive)
    features = model.encoder(images)
    expected = (
        contrastive
        + 0.3 * untouched.features(features, index)
        + 0.7 * untouched.projections(projector(features), index)
    )
    torch.testing.assert_close(objective(model, views, index), expected)


def test_before_observing_the_loss_is_not_a_number():
    model = small_model()
    objective = ContrastiveMoments(model, PREPROCESSING, projection=4, queue=8)
    views = objective.draw(torch.rand(4, 3, 8, 8), 1, torch.arange(4))
    assert objective(model, *views).isnan()


def test_too_few_source_images():
    model = small_model()
    objective = ContrastiveMoments(model, PREPROCESSING, projection=4, queue=8)
    with pytest.raises(InputError, match="from 16 images or more, not from 15"):
        objective.observe(model, [torch.randn(15, 3, 8, 8)])


@pytest.mark.parametrize("options", [{"projection": 0}, {"queue": 1}])
def test_what_is_refused(options):
    with pytest.raises(InputError, match="TTT\\+\\+ needs"):
        ContrastiveMoments(small_model(), PREPROCESSING, **options)


def test_it_learns_before_and_at_deployment(descend):
    model = small_model(dim=16)
    objective = ContrastiveMoments(model, PREPROCESSING, projection=8, queue=64)
    images = nn.functional.interpolate(torch.rand(256, 3, 2, 2), size=8, mode="bilinear")
    index = torch.arange(32)

    def train(parameters, loss, **options):
        losses = descend(parameters, loss, **options)
        return sum(losses[:3]) / 3, sum(losses[-3:]) / 3

    def on_source(step):
        return objective.source_loss(model, *objective.source_draw(images[:32], step, index))

    before, after = train(
        [*model.parameters(), *objective.parameters()], on_source, steps=60, rate=1e-2
    )
    assert after < 0.93 * before
    objective.observe(model, images.split(32))
    shifted = 0.5 * images[:32]

    def on_target(step):
        return objective(model, *objective.draw(shifted, step, index))

    def apart():
        return objective.features(model.encoder(shifted), index).item()

    near = objective.features(model.encoder(images[:32]), index).item()
    far = apart()
    before, after = train(model.encoder.parameters(), on_target, steps=30, rate=3e-3)
    assert near < 0.3 * far
    assert after < 0.85 * before and apart() < 0.5 * far


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(0, 2**9 - 1))
def test_moments_of_some_rows_are_those_of_these_rows(rows, chosen):
    """As on a GPU, where it is not known how many they are. The other rows may hold anything."""
    features = normal(rows, 3, seed=chosen)
    mask = torch.tensor([bool(chosen >> row & 1) for row in range(rows)])
    mask[0] = True
    features[~mask] = torch.nan
    features.requires_grad_()
    found = _moments_of_some(features, mask)
    expected = _moments(features[mask])
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(found, expected):
        ours, theirs = (
            torch.autograd.grad(x.square().sum(), features, retain_graph=True)[0]
            for x in (ours, theirs)
        )
        torch.testing.assert_close(ours, theirs)
