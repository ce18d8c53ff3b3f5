import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from acclimate.errors import InputError
from acclimate.objectives.flow import Flow, RealNVP, negative_log_likelihood


def random_flow(seed, channels, couplings=3, *, scale=0.5):
    """A flow in float64 with no parameter or statistic at its start."""
    torch.manual_seed(seed)
    flow = RealNVP(channels, couplings, blocks=1, width=4).double()
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=scale)
    flow.mean.normal_()
    flow.std.uniform_(0.5, 2)
    return flow


maps = {
    "seed": st.integers(0, 2**31 - 1),
    "batch": st.integers(1, 3),
    "channels": st.integers(1, 3),
    "height": st.integers(1, 5),
    "width": st.integers(1, 4),
    "couplings": st.integers(2, 4),
}


@settings(deadline=None, max_examples=40)
@given(**maps, scale=st.floats(0.1, 1))
def test_inverse_of_forward_is_the_input(seed, batch, channels, height, width, couplings, scale):
    flow = random_flow(seed, channels, couplings, scale=scale)
    x = torch.randn(batch, channels, height, width, dtype=torch.float64)
    z, log_det = flow(x)
    assert z.shape == x.shape and log_det.shape == (batch,)
    torch.testing.assert_close(flow.inverse(z), x, rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(**maps)
def test_log_determinant_is_the_jacobians(seed, batch, channels, height, width, couplings):
    flow = random_flow(seed, channels, couplings)
    x = torch.randn(batch, channels, height, width, dtype=torch.float64)
    _, found = flow(x)
    for image, log_det in zip(x, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda one: flow(one[None])[0][0], image)
        size = image.numel()
        torch.testing.assert_close(jacobian.reshape(size, size).slogdet().logabsdet, log_det)


def test_every_position_is_changed_by_a_function_of_others():
    flow = random_flow(1, channels=2)
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: flow(x)[0], x).reshape(32, 32)
    off_diagonal = jacobian - jacobian.diag().diag()
    assert (off_diagonal.abs().sum(1) > 0).all()


def test_starts_as_standardisation():
    flow = RealNVP(3, couplings=3, blocks=2, width=4)
    x = torch.randn(16, 3, 4, 4) * torch.tensor([0.5, 2, 3]).view(3, 1, 1) + 4
    flow.standardise(x)
    z, log_det = flow(x)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(3), rtol=0.01, atol=0)
    expected = -16 * x.std((0, 2, 3)).log().sum()
    torch.testing.assert_close(log_det, expected.expand(16), rtol=0.01, atol=0)


@pytest.mark.parametrize("others", [1.0, 0.0])
def test_a_dead_channel_is_not_magnified(others):
    flow = RealNVP(2, couplings=2, blocks=1, width=4)
    x = torch.zeros(4, 2, 3, 3)
    x[:, 0] = others * torch.randn(4, 3, 3)
    flow.standardise(x)
    assert flow.std.min() >= (0.04 if others else 1e-6)
    z, log_det = flow(x)
    assert z.isfinite().all() and log_det.isfinite().all()


def test_scales_are_bounded_whatever_the_parameters():
    flow = random_flow(2, channels=2, scale=100.0)
    flow.std.fill_(1)
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    _, log_det = flow(x)
    # Of three couplings two change one colour and one the other, each position by e^±2 at most.
    assert log_det.abs().max() <= 2 * (2 * 16 + 16)


def test_loss_is_the_density_of_a_transformed_normal():
    """Of z = 2 x + 1 and z normal, by torch.distributions."""
    x = torch.randn(5, 2, 3, 3, dtype=torch.float64)
    z, log_det = 2 * x + 1, torch.full((5,), 18 * math.log(2.0), dtype=torch.float64)
    found = negative_log_likelihood(z, log_det)
    expected = -torch.distributions.Normal(-0.5, 0.5).log_prob(x).mean()
    torch.testing.assert_close(found, expected)


def test_density_of_a_random_flow_integrates_to_one():
    flow = random_flow(3, channels=1, scale=0.3)
    step = 0.05
    line = torch.arange(-12, 12, step, dtype=torch.float64)
    x = torch.cartesian_prod(line, line).view(-1, 1, 1, 2)  # every map of two positions
    with torch.no_grad():
        z, log_det = flow(x)
    log_p = log_det - 0.5 * z.square().flatten(1).sum(1) - math.log(2 * math.pi)
    assert (log_p.exp().sum() * step**2).item() == pytest.approx(1, abs=1e-3)


def test_learns_on_source_then_on_target(network, clean, shifted, learn):
    model, preprocessing = network
    model.eval()
    before = copy.deepcopy(model.state_dict())
    objective = Flow(model, preprocessing, tap=1, blocks=1, width=8)
    parameters = objective.parameters()
    losses = learn(objective, network, clean, parameters, on="source", steps=20, rate=1e-2)
    assert losses[-1] < losses[0] - 0.05
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

    source = objective(model, preprocessing.normalize(clean))
    parameters = model.encoder.parameters()
    losses = learn(objective, network, shifted, parameters, on="target", steps=8, rate=1e-3)
    assert source < losses[0]  # the flow takes the shifted features for unlikely
    assert losses[-1] < losses[0] - 0.02


def test_standardised_once_and_rebuilt_from_its_state(bundle, images):
    model, preprocessing = bundle.classifier, bundle.preprocessing
    objective = Flow(model, preprocessing)
    first, second = preprocessing(images[:8]), preprocessing(255 - images[:8])
    objective.source_loss(model, first)
    mean = objective.flow.mean.clone()
    assert mean.abs().max() > 0
    objective.source_loss(model, second)
    assert torch.equal(objective.flow.mean, mean)
    objective.flow.standardise(objective._features(model, second))  # as on a GPU, at every call
    assert torch.equal(objective.flow.mean, mean)

    rebuilt = Flow(model, preprocessing)
    rebuilt.load_state_dict(objective.state_dict())
    torch.testing.assert_close(rebuilt(model, second), objective(model, second))
    rebuilt.source_loss(model, second)
    assert torch.equal(rebuilt.flow.mean, mean)


def test_bf16_autocast_computes_the_flow_in_float32(bundle, images):
    model, preprocessing = bundle.classifier, bundle.preprocessing
    objective = Flow(model, preprocessing)
    for parameter in objective.parameters():
        nn.init.normal_(parameter, std=0.3)
    features = objective._features(model, preprocessing(images[:4]))
    expected = objective._loss(features.double().float())
    with torch.autocast("cpu", torch.bfloat16):
        found = objective._loss(features)
        assert objective(model, preprocessing(images[:4])).dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_what_is_refused(bundle):
    with pytest.raises(InputError, match="two couplings"):
        Flow(bundle.classifier, bundle.preprocessing, couplings=1)
