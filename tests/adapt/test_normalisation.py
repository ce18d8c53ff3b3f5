import pytest
import torch
from torch import nn

from acclimate.adapt.normalisation import batch_statistics
from acclimate.adapt.parameters import batch_norms


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6 * 36, 5), nn.BatchNorm1d(5)
    )
    for norm in batch_norms(network):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
    return network.eval().requires_grad_(False)


def source(network):
    return [(norm.running_mean.clone(), norm.running_var.clone()) for norm in batch_norms(network)]


def images(count):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(count)) * 2 + 1


def answer(network, x, prior):
    with batch_statistics(batch_norms(network), source(network), prior):
        return network(x)


@pytest.mark.parametrize("count", [2, 7, 64])
def test_without_a_prior_it_is_batch_norm_in_training(network, count):
    x = images(count)
    found = answer(network, x, 0.0)
    torch.testing.assert_close(found, network.train()(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("prior", [0.5, 16.0])
def test_with_a_prior_the_statistics_are_the_blend(network, count, prior):
    """N/(N + n) of the source, n/(N + n) of the batch: Schneider et al. 2020, Eq. 1."""
    conv, norm = network[0], network[1]
    ((mean, variance), _) = source(network)
    x = conv(images(count)).double()
    own_mean, own_variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    mean = (prior * mean + count * own_mean) / (prior + count)
    variance = (prior * variance + count * own_variance) / (prior + count)
    expected = (x - mean.view(1, -1, 1, 1)) / (variance.view(1, -1, 1, 1) + norm.eps).sqrt()
    expected = expected * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
    found = answer(network[:2], images(count), prior)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_one_image_under_a_large_prior_is_the_source_s_answer(network):
    expected = network(images(1))
    torch.testing.assert_close(answer(network, images(1), 1e8), expected, atol=1e-5, rtol=1e-5)


def test_one_image_without_a_prior_is_finite(network):
    assert torch.isfinite(answer(network, images(1), 0.0)).all()


def test_the_first_batch_leaves_no_trace_in_the_second(network):
    kept = source(network)
    norms = batch_norms(network)
    with batch_statistics(norms, kept, 4.0):
        network(images(64))
        second = network(images(7))
    with batch_statistics(norms, kept, 4.0):
        assert torch.equal(network(images(7)), second)


def test_no_hook_stays_even_after_an_exception(network):
    with (
        pytest.raises(RuntimeError, match="stop"),
        batch_statistics(batch_norms(network), source(network), 0.0),
    ):
        raise RuntimeError("stop")
    assert not any(norm._forward_pre_hooks for norm in batch_norms(network))
    before = source(network)
    network(images(7))
    assert all(torch.equal(x[0], y[0]) for x, y in zip(before, source(network)))


def test_half_precision_inputs_have_exact_statistics():
    """1000 + noise: bf16 sums would lose the noise."""
    norm = nn.BatchNorm2d(2).eval()
    x = (torch.randn(32, 2, 8, 8, generator=torch.Generator().manual_seed(0)) * 8 + 1000).bfloat16()
    with batch_statistics([norm], source(norm), 0.0), torch.autocast("cpu", torch.bfloat16):
        norm(x)
    torch.testing.assert_close(norm.running_mean, x.double().mean((0, 2, 3)).float())
    expected = x.double().var((0, 2, 3), unbiased=False).float()
    torch.testing.assert_close(norm.running_var, expected, rtol=1e-4, atol=0)
