import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy

from acclimate import randomness
from acclimate.backbones.taps import tapped
from acclimate.errors import InputError
from acclimate.objectives.noise_contrastive import NoiseContrastive, in_distribution_probability

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "losses.npz")


def test_golden_values():
    noise = torch.from_numpy(GOLDEN["ncttt_noise"])
    sigma_in, sigma_out = GOLDEN["ncttt_sigmas"].tolist()
    found = in_distribution_probability(noise, sigma_in, sigma_out)
    expected = torch.from_numpy(GOLDEN["ncttt_in_distribution_probability"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def plain(noise, sigma_in, sigma_out):
    """Bayes' rule with both densities written out, for one noise."""

    def density(sigma):
        factors = [
            math.exp(-0.5 * (x / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi)) for x in noise
        ]
        return math.prod(factors)

    return density(sigma_in) / (density(sigma_in) + density(sigma_out))


@settings(deadline=None, max_examples=50)
@given(
    noise=st.lists(st.floats(-3, 3), min_size=1, max_size=6),
    sigma_in=st.floats(0.5, 1),
    ratio=st.floats(1.01, 3),
)
def test_probability_is_bayes_rule(noise, sigma_in, ratio):
    sigma_out = ratio * sigma_in
    tensor = torch.tensor([noise], dtype=torch.float64)
    found = in_distribution_probability(tensor, sigma_in, sigma_out).item()
    assert found == pytest.approx(plain(noise, sigma_in, sigma_out), rel=1e-9)


def test_probability_of_much_weak_noise_is_one_and_of_strong_noise_nought():
    noise = randomness.normal(1, torch.arange(4), 100_000)
    assert in_distribution_probability(0.015 * noise, 0.015, 0.05).tolist() == [1] * 4
    assert in_distribution_probability(0.05 * noise, 0.015, 0.05).tolist() == [0] * 4


def features_of(objective, model, images):
    """The projected, flattened map, position by position."""
    [features] = tapped(model.encoder, objective.names, images)
    if features.ndim == 3:  # tokens
        features = features.transpose(1, 2)[..., None]
    weight, bias = objective.projector.weight[:, :, 0, 0], objective.projector.bias
    projected = torch.einsum("bchw,dc->bdhw", features, weight) + bias[:, None, None]
    return projected.flatten(1)


def test_source_loss_is_cross_entropy_with_the_noises_probabilities(network, clean):
    model, preprocessing = network
    model.eval()
    objective = NoiseContrastive(model, preprocessing, sigma_in=0.05, sigma_out=0.06, projection=2)
    objective.eval()
    index = torch.arange(3, 8)
    views, key, drawn = objective.source_draw(clean[:5], 11, index)
    assert torch.equal(drawn, index)
    views = preprocessing.normalize(views)
    features = features_of(objective, model, views)
    dim = features.shape[1]
    losses = []
    for i, row in enumerate(index):
        numbers = randomness.normal(randomness.key(11, "feature noise"), row[None], 2 * dim)[0]
        for noise in (0.05 * numbers[:dim], 0.06 * numbers[dim:]):
            log_odds = (noise**2).sum() * (1 / 0.06**2 - 1 / 0.05**2) / 2 + dim * math.log(6 / 5)
            score = objective.discriminator((features[i] + noise)[None])[0, 0].sigmoid()
            losses.append(binary_cross_entropy(score, log_odds.sigmoid()))
    found = objective.source_loss(model, views, key, drawn)
    torch.testing.assert_close(found, torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)


def test_deployment_loss_is_minus_log_p_in(network, clean):
    model, preprocessing = network
    model.eval()
    objective = NoiseContrastive(model, preprocessing, projection=2).eval()
    images = preprocessing(clean[:5])
    score = objective.discriminator(features_of(objective, model, images)).sigmoid()
    found = objective(model, images)
    torch.testing.assert_close(found, -score.log().mean(), rtol=1e-4, atol=1e-6)


def test_noise_depends_on_key_and_image_alone(bundle, images):
    model, preprocessing = bundle.classifier, bundle.preprocessing
    objective = NoiseContrastive(model, preprocessing, sigma_in=0.5, sigma_out=1.0).eval()
    unit, index = preprocessing.unit(images[:6]), torch.arange(6)

    def losses(key, part):
        views, *drawn = objective.source_draw(unit[part], key, index[part])
        return objective.source_loss(model, preprocessing.normalize(views), *drawn)

    whole = losses(1, slice(0, 6))
    parts = torch.stack([losses(1, slice(0, 3)), losses(1, slice(3, 6))]).mean()
    torch.testing.assert_close(whole, parts)
    assert losses(2, slice(0, 6)) != whole


def test_learns_on_source_then_on_target(network, clean, shifted, learn):
    model, preprocessing = network
    # Levels of noise so far apart that a few steps suffice.
    options = {"sigma_in": 0.1, "sigma_out": 3.0, "projection": 4, "hidden": 16}
    objective = NoiseContrastive(model, preprocessing, **options)
    parameters = [*model.parameters(), *objective.parameters()]
    losses = learn(objective, network, clean, parameters, on="source", steps=30, rate=1e-2)
    assert losses[-1] < losses[0] - 0.05

    model.eval()
    objective.eval()
    parameters = model.encoder.parameters()
    losses = learn(objective, network, shifted, parameters, on="target", steps=8, rate=1e-3)
    assert losses[-1] < losses[0] - 0.02


def test_bf16_autocast_keeps_small_noise(bundle, images):
    """With σ of 1e-4 on features near 1, bf16 would round both noises to nothing."""
    model = copy.deepcopy(bundle.classifier)
    objective = NoiseContrastive(model, bundle.preprocessing, sigma_in=1e-4, sigma_out=2e-4).eval()
    with torch.no_grad():
        objective.projector.weight.zero_()
        objective.projector.bias.fill_(1.0)
        objective.discriminator[0].weight.mul_(1e3)
    drawn = objective.source_draw(bundle.preprocessing.unit(images[:4]), 1, torch.arange(4))
    expected = objective.source_loss(model, *drawn)
    with torch.autocast("cpu", torch.bfloat16):
        found = objective.source_loss(model, *drawn)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_projection_follows_the_map(bundle):
    objective = NoiseContrastive(bundle.classifier, bundle.preprocessing)
    assert objective.projector.out_channels == 3 * 16  # the second stage of width 8
    assert objective.discriminator[0].in_features == 3 * 16 * 8 * 8


@pytest.mark.parametrize("sigmas", [(0.1, 0.1), (0.2, 0.1), (0.0, 0.1), (0.1, math.nan)])
def test_what_is_refused(bundle, sigmas):
    sigma_in, sigma_out = sigmas
    with pytest.raises(InputError, match="weaker"):
        NoiseContrastive(
            bundle.classifier, bundle.preprocessing, sigma_in=sigma_in, sigma_out=sigma_out
        )
