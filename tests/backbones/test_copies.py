import pytest
import torch
from torch import nn

from acclimate.backbones import check_finite, duplicate, forgetful, in_float32, is_plain
from acclimate.errors import InputError


@pytest.mark.filterwarnings("ignore")
def test_layers_that_hold_a_computed_weight():
    network = nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(4, 3)))
    assert not network[0].weight.is_leaf  # so copy.deepcopy refuses it
    copy = duplicate(network)
    x = torch.randn(2, 4)
    assert torch.equal(copy(x), network(x))
    with torch.no_grad():
        network[0].weight_g.zero_()
    assert copy(x).std() > 0
    copy(x).sum().backward()
    assert copy[0].weight_g.grad is not None and network[0].weight_g.grad is None


def test_float32():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert in_float32(network) is network
    half = network.half()
    copy = in_float32(half)
    assert half[0].weight.dtype == torch.float16
    tensors = [t for t in copy.state_dict().values() if t.is_floating_point()]
    assert {t.dtype for t in tensors} == {torch.float32}


def test_infinity_may_be_meant_in_a_mask_alone():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    network.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    check_finite(network)
    for tensor, value in (
        (network.mask, torch.nan),
        (network[0].weight.data, torch.inf),
        (network[1].running_var, torch.inf),
    ):
        before = tensor.clone()
        tensor.view(-1)[0] = value
        with pytest.raises(InputError, match="NaN or infinity"):
            check_finite(network)
        tensor.copy_(before)
    check_finite(network)


@pytest.mark.filterwarnings("ignore")
def test_which_heads_are_plain():
    class Cosine(nn.Linear):
        def forward(self, x):
            return nn.functional.cosine_similarity(x[:, None], self.weight, dim=2)

    assert is_plain(nn.Linear(2, 2))
    computed = [
        torch.nn.utils.weight_norm(nn.Linear(2, 2)),
        torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
        torch.nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)),
        Cosine(2, 2),
        nn.Sequential(nn.Linear(2, 2)),
    ]
    assert not any(map(is_plain, computed))


def test_what_a_layer_keeps_in_evaluation_mode_is_computed_anew():
    from timm.models.levit import Attention

    torch.manual_seed(0)
    layer = Attention(8, 4, 2, resolution=(2, 2), act_layer=nn.SiLU)
    layer.eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    x = torch.randn(1, 4, 8)
    layer(x)  # keeps biases, with their graph
    copy = forgetful(duplicate(layer).double().float())
    for _ in range(2):
        copy(x).sum().backward()  # a second pass would meet the first one's freed graph
    with torch.no_grad():
        before = copy(x)
        copy.attention_biases.copy_(torch.randn_like(copy.attention_biases) * 9)
        assert not torch.equal(copy(x), before)
        copy.train()
        copy.eval()
        fresh = copy(x)
        copy.attention_biases.zero_()
        assert not torch.equal(copy(x), fresh)
