import copy

import pytest
import torch
from pretended import pretended_gpu
from torch import nn

from acclimate.backbones.batch_norm import batch_norms, own_statistics
from acclimate.errors import InputError
from acclimate.parts.normalisation import (
    AdaptiveBatchNorm,
    BatchNorms,
    BatchStatistics,
    RunningStatistics,
    SourceStatistics,
    cumulative_statistics,
)


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


def images(count):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(count)) * 2 + 1


def adaptive(network, settings):
    """A copy with adaptive layers, and the part."""
    own = copy.deepcopy(network)
    return own, BatchNorms(settings, {"model": own})


def answer(network, x, prior):
    return adaptive(network, BatchStatistics(prior))[0](x)


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
    x = conv(images(count)).double()
    own_mean, own_variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    mean = (prior * norm.running_mean + count * own_mean) / (prior + count)
    variance = (prior * norm.running_var + count * own_variance) / (prior + count)
    expected = (x - mean.view(1, -1, 1, 1)) / (variance.view(1, -1, 1, 1) + norm.eps).sqrt()
    expected = expected * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
    found = answer(network[:2], images(count), prior)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_one_image_under_a_large_prior_is_the_source_s_answer(network):
    expected = network(images(1))
    torch.testing.assert_close(answer(network, images(1), 1e8), expected, atol=1e-5, rtol=1e-5)


def test_one_image_without_a_prior_is_finite(network):
    assert torch.isfinite(answer(network, images(1), 0.0)).all()


@pytest.mark.parametrize("settings", [BatchStatistics(4.0), SourceStatistics()])
def test_a_batch_leaves_no_trace_in_the_next(network, settings):
    own, part = adaptive(network, settings)
    with part.learning():
        own(images(64))
    own(images(64))
    assert torch.equal(own(images(7)), adaptive(network, settings)[0](images(7)))
    assert part.state() == {} and part.written() == []


def test_the_source_s_layers_stay_where_its_statistics_do(network):
    own, _ = adaptive(network, SourceStatistics())
    assert not any(isinstance(module, AdaptiveBatchNorm) for module in own.modules())
    assert torch.equal(own(images(7)), network(images(7)))


def test_half_precision_inputs_have_exact_statistics():
    """1000 + noise: bf16 sums would lose the noise."""
    norm = nn.BatchNorm2d(2).eval()
    x = (torch.randn(32, 2, 8, 8, generator=torch.Generator().manual_seed(0)) * 8 + 1000).bfloat16()
    own, _ = adaptive(nn.Sequential(norm), BatchStatistics())
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = own(x)
    exact = x.double()
    mean, variance = exact.mean((0, 2, 3)), exact.var((0, 2, 3), unbiased=False)
    expected = (exact - mean[:, None, None]) / (variance[:, None, None] + norm.eps).sqrt()
    torch.testing.assert_close(found.double(), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_are_torch_s_own_in_training_and_evaluation(network, momentum):
    for norm in batch_norms(network):
        norm.momentum = momentum
    own, part = adaptive(network, RunningStatistics())
    for count in (5, 9, 3):
        with part.learning():
            assert torch.equal(own(images(count)), network.train()(images(count)))
        assert torch.equal(own(images(4)), network.eval()(images(4)))
    theirs = network.state_dict()
    for name, tensor in part.state().items():
        assert torch.equal(tensor, theirs[name.removeprefix("model.")]), name


def test_running_statistics_are_views_of_few_tensors(network):
    own, part = adaptive(network, RunningStatistics())
    [flat] = part.written()
    before = flat.clone()
    with part.learning():
        own(images(5))
    changed = own(images(5))
    flat.copy_(before)
    assert torch.equal(own(images(5)), network(images(5)))
    assert not torch.equal(changed, network(images(5)))


def test_inputs_apart_have_statistics_of_their_own(network):
    """As TIPI's shifted images: they are normalised by themselves, and enter no average."""
    own, part = adaptive(network, RunningStatistics())
    before = {name: tensor.clone() for name, tensor in part.state().items()}
    with part.learning(), own_statistics(own):
        found = own(images(6))
    assert torch.equal(found, network.train()(images(6)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in part.state().items())
    with part.learning():
        own(images(6))
    assert not any(torch.equal(tensor, before[name]) for name, tensor in part.state().items())


def test_the_switch_goes_back_after_an_exception(network):
    own, part = adaptive(network, RunningStatistics())
    with pytest.raises(RuntimeError, match="stop"), part.learning():
        raise RuntimeError("stop")
    assert torch.equal(own(images(7)), network(images(7)))


def test_names_parameters_and_sharing_stay():
    shared = nn.BatchNorm2d(3)
    network = nn.Sequential(shared, nn.Conv2d(3, 3, 1), shared).eval()
    own, part = adaptive(network, BatchStatistics())
    assert own.state_dict().keys() == network.state_dict().keys()
    assert {*own.parameters()} == {*own[0].parameters(), *own[1].parameters()}
    assert own[0] is own[2] and isinstance(own[0], AdaptiveBatchNorm)
    assert len(part.layers) == 1


def test_some_submodules_keep_the_source_s_statistics(network):
    own = nn.ModuleDict({"moves": copy.deepcopy(network), "kept": copy.deepcopy(network)})
    BatchNorms(BatchStatistics(), {"objective": own}, but=[own["kept"]])
    assert torch.equal(own["kept"](images(7)), network(images(7)))
    assert not torch.equal(own["moves"](images(7)), network(images(7)))


def test_timm_s_layer_keeps_its_activation():
    layers = pytest.importorskip("timm.layers")
    norm = layers.BatchNormAct2d(4, act_layer=nn.SiLU).eval()
    x = torch.randn(6, 4, 5, 5)
    own, _ = adaptive(nn.Sequential(norm), BatchStatistics())
    expected = nn.functional.silu(nn.functional.batch_norm(x, None, None, training=True))
    torch.testing.assert_close(own(x), expected, atol=1e-5, rtol=1e-5)


def test_a_layer_of_its_own_kind_is_refused_unless_it_stays():
    class Odd(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) * 2

    with pytest.raises(InputError, match="Odd computes batch norm in its own way"):
        adaptive(nn.Sequential(Odd(3)), BatchStatistics())
    adaptive(nn.Sequential(Odd(3)), SourceStatistics())


def test_cumulative_averages_are_torch_s(network):
    plain = copy.deepcopy(network)
    for norm in batch_norms(plain):
        norm.momentum = None
    kept = list(network.modules())
    for module in (network, plain):
        for norm in batch_norms(module):
            norm.reset_running_stats()
    with cumulative_statistics(network):
        for count in (6, 6, 5):
            assert torch.equal(network(images(count)), plain.train()(images(count)))
    assert all(x is y for x, y in zip(network.modules(), kept, strict=True))
    assert all(norm.momentum == 0.1 for norm in batch_norms(network))
    for own, other in zip(network.buffers(), plain.buffers(), strict=True):
        assert torch.equal(own, other)


def test_cumulative_averages_are_the_same_on_a_gpu_and_nothing_waits(network):
    plain = copy.deepcopy(network)
    with pretended_gpu() as gpu:
        for module in (plain, network.to(gpu.device)):
            with cumulative_statistics(module):
                for count in (6, 6, 5):
                    x = images(count).to(next(module.parameters()).device)
                    with gpu.watched():
                        module(x)
                    assert not gpu.waits
        for own, other in zip(network.buffers(), plain.buffers(), strict=True):
            torch.testing.assert_close(own.values, other)


@pytest.mark.parametrize("settings", [BatchStatistics(16), RunningStatistics()])
def test_an_adapting_resnet_compiles_without_a_graph_break(settings):
    from acclimate.backbones import build, split

    encoder = split(build("acclimate:resnet8-w8", classes=4)).encoder.eval().requires_grad_(False)
    part = BatchNorms(settings, {"model": encoder})
    x = torch.rand(6, 3, 16, 16)
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), encoder(x))
    before = [tensor.clone() for tensor in part.written()]
    with part.learning():
        found = compiled(x)
        after = [tensor.clone() for tensor in part.written()]
        for tensor, value in zip(part.written(), before):
            tensor.copy_(value)
        torch.testing.assert_close(found, encoder(x))
    for tensor, value in zip(part.written(), after, strict=True):
        torch.testing.assert_close(tensor, value)
