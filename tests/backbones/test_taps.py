import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from acclimate.backbones import build, tapped
from acclimate.errors import InputError

STAGES = ["stages.0", "stages.1", "stages.2"]


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return build("acclimate:resnet8-w8", classes=3).encoder.eval()


def random_images(batch=2, size=16, seed=1):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def by_plain_hooks(encoder, names, images):
    """The whole forward pass, with an ordinary hook for each name."""
    found = {}
    for name in names:
        module = encoder.get_submodule(name)
        module.register_forward_hook(lambda _, __, output, name=name: found.update({name: output}))
    encoder(images)
    return [found[name] for name in names]


@pytest.mark.parametrize(
    "names", [["stages.1"], ["stages.2", "stem", "stages.0.0.conv1"], ["tail", "stages"], STAGES]
)
def test_the_features_are_those_of_a_plain_hook(encoder, names):
    images = random_images()
    expected = by_plain_hooks(copy.deepcopy(encoder), names, images)
    found = tapped(encoder, names, images)
    assert [features.shape for features in found] == [features.shape for features in expected]
    assert all(torch.equal(one, other) for one, other in zip(found, expected))
    assert not any(module._forward_hooks for module in encoder.modules())


def test_what_comes_after_the_last_tap_is_not_run(encoder):
    called = []
    for name, module in encoder.named_modules():
        module.register_forward_pre_hook(lambda _, __, name=name: called.append(name))
    tapped(encoder, ["stages.1", "stem"], random_images())
    assert "stages.1" in called
    assert not [name for name in called if name.startswith(("stages.2", "tail"))]


def test_gradients_reach_the_images_and_the_layers_before_the_tap(encoder):
    images = random_images().requires_grad_()
    (features,) = tapped(encoder, ["stages.1"], images)
    features.square().mean().backward()
    twin = copy.deepcopy(encoder)
    twin.zero_grad()
    again = images.detach().clone().requires_grad_()
    twin.stages[1](twin.stages[0](twin.stem(again))).square().mean().backward()
    torch.testing.assert_close(images.grad, again.grad)
    for (name, one), other in zip(encoder.named_parameters(), twin.parameters()):
        assert (one.grad is None) == name.startswith(("stages.2", "tail")), name
        assert one.grad is None or torch.allclose(one.grad, other.grad)


def test_the_first_output_of_a_module_that_is_called_twice():
    torch.manual_seed(0)
    layer, last = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
    network = nn.Sequential(layer, layer, last)
    images = random_images()
    expected = layer(images)
    assert torch.equal(tapped(network, ["0"], images)[0], expected)
    assert torch.equal(tapped(network, ["2", "0"], images)[1], expected)


def test_the_same_name_twice(encoder):
    first, second = tapped(encoder, ["stages.0", "stages.0"], random_images())
    assert first is second


def test_unknown_and_unused_names(encoder):
    with pytest.raises(InputError, match=r"unknown layer 'stages\.3': did you mean stages"):
        tapped(encoder, ["stages.3"], random_images())
    encoder.unused = nn.Linear(2, 2)
    encoder.forward = lambda images: encoder.tail(encoder.stages(encoder.stem(images)))
    with pytest.raises(InputError, match="never calls 'unused'"):
        tapped(encoder, ["stages.0", "unused"], random_images())
    assert not any(module._forward_hooks for module in encoder.modules())


def test_an_error_of_the_network_is_passed_on_and_leaves_no_hook(encoder):
    with pytest.raises(RuntimeError):
        tapped(encoder, ["stages.0"], torch.zeros(2, 5, 16, 16))
    assert not any(module._forward_hooks for module in encoder.modules())


def test_threads_with_a_copy_each(encoder):
    encoders = [encoder, copy.deepcopy(encoder)]
    with torch.no_grad():
        encoders[1].stem[0].weight.mul_(2)
    expected = [by_plain_hooks(copy.deepcopy(e), STAGES, random_images()) for e in encoders]

    def work(number):
        return [tapped(encoders[number], STAGES, random_images()) for _ in range(20)]

    with ThreadPoolExecutor(2) as pool:
        for number, rounds in enumerate(pool.map(work, range(2))):
            for found in rounds:
                assert all(torch.equal(a, b) for a, b in zip(found, expected[number]))
