import copy

import pytest
import torch
from torch import nn

from acclimate.adapt import Adapter
from acclimate.backbones.group_norm import with_safe_group_norms


def gradients(network, images):
    moving = [*network[1].parameters()]
    return torch.autograd.grad(network(images).logsumexp(1).sum(), moving)


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    network[0].requires_grad_(False)
    return network


@pytest.mark.parametrize("version", ["2.6.0+cu124", "2.13.1", "2.14.0", "2.15.0+cpu"])
def test_the_first_gradient_of_older_versions_is_of_images_in_the_usual_layout(
    network, version, monkeypatch
):
    images = torch.randn(4, 3, 9, 9).contiguous(memory_format=torch.channels_last)
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    as_usual = gradients(plain, images.contiguous())
    monkeypatch.setattr(torch, "__version__", version)
    seen = []
    with_safe_group_norms(network)
    network[1].register_forward_pre_hook(lambda layer, given: seen.append(given[0].is_contiguous()))
    if version.startswith(("2.6", "2.13")):
        torch.testing.assert_close(gradients(network, images), as_usual)
    else:
        network(images)
    assert seen == [version.startswith(("2.6", "2.13"))]


def test_layers_behind_a_gradient_are_left_alone(network, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.6.0")
    seen = []
    with_safe_group_norms(network)[0].requires_grad_(True)
    network[1].register_forward_pre_hook(lambda layer, given: seen.append(given[0].is_contiguous()))
    network(torch.randn(4, 3, 9, 9).contiguous(memory_format=torch.channels_last))
    assert seen == [False]


def test_an_adapter_steps_on_such_a_network(group_norm_bundle, images):
    adapter = Adapter(group_norm_bundle, "tent", device="cpu", precision="fp32")
    assert adapter(images[:16]).isfinite().all()
    assert adapter.steps[0].taken
