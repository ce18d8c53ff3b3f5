"""Activations computed anew: the same gradients, the same statistics, less memory."""

import copy

import pytest
import torch
from torch import nn

from acclimate.backbones import build, split, tapped
from acclimate.backbones.fitting import fitted, measured
from acclimate.backbones.recompute import Thrift, partitions
from acclimate.objectives import contrastive_loss, entropy_loss
from acclimate.runtime.live import most_bytes
from acclimate.runtime.precision import autocast


class Mixer(nn.Module):
    """A transformer block in small: layer norms and two linear layers."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.first = nn.LayerNorm(width), nn.Linear(width, 4 * width)
        self.second = nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.second(torch.nn.functional.gelu(self.first(self.norm(x))))


def network(kind):
    torch.manual_seed(0)
    if kind == "layer norm":
        patches = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.Flatten(2), nn.Linear(16, 16))
        return nn.Sequential(patches, Mixer(16), Mixer(16), Mixer(16), nn.Flatten()).double()
    name = "acclimate:resnet14-w8" + {"batch norm": "", "group norm": "-gn"}[kind]
    return split(build(name, classes=4)).encoder.double()


def loss_of(name, features):
    if name == "entropy":
        return entropy_loss(features[:, :5])
    return contrastive_loss(*features.chunk(2), temperature=0.1)


@pytest.mark.parametrize("loss", ["entropy", "contrastive"])
@pytest.mark.parametrize("kind", ["batch norm", "group norm", "layer norm"])
def test_gradients_and_statistics_are_those_of_a_plain_pass(kind, loss):
    plain = network(kind).train()
    images = torch.rand(8, 3, 16, 16, dtype=torch.float64)
    state = copy.deepcopy(plain.state_dict())

    def step(net):
        loss_of(loss, net(images)).backward()

    ways = partitions(plain, lambda: step(plain))
    assert ways
    plain.load_state_dict(state)
    plain.zero_grad()
    step(plain)
    expected = [p.grad.clone() for p in plain.parameters()]
    statistics = copy.deepcopy(dict(plain.named_buffers()))
    thrifts = [Thrift(way) for way in ways]
    if kind != "batch norm":
        thrifts += [Thrift((plain,), images=3), Thrift((plain,), images=1)]
    for thrift in thrifts:
        plain.load_state_dict(state)
        plain.zero_grad()
        with thrift.applied():
            step(plain)
        assert all("forward" not in vars(module) for module in plain.modules())
        for parameter, gradient in zip(plain.parameters(), expected):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)
        for name, value in plain.named_buffers():  # once, not again with the second pass
            assert torch.equal(value, statistics[name]), name


def test_dropout_is_drawn_once():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8))
    net, x = nn.Sequential(block, nn.Linear(8, 2)), torch.rand(4, 8)
    found = []
    for thrift in (Thrift(), Thrift((block,))):
        net.zero_grad()
        torch.manual_seed(1)
        with thrift.applied():
            net(x).square().sum().backward()
        found.append([p.grad.clone() for p in net.parameters()])
    for plain, thrifty in zip(*found):
        assert torch.equal(plain, thrifty)


@pytest.mark.parametrize("tap", ["stages.0", "stages.1", "stages.1.0.conv1"])
def test_taps_see_what_they_see_otherwise(tap):
    net = network("batch norm").eval()
    tap = tap if tap in dict(net.named_modules()) else "stages.1"
    images = torch.rand(4, 3, 16, 16, dtype=torch.float64)
    found = []
    for thrift in (Thrift(), Thrift(tuple(net.stages))):
        net.zero_grad()
        with thrift.applied():
            (features,) = tapped(net, [tap], images)
            features.square().sum().backward()
        found.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1])
    for plain, thrifty in zip(*found):
        torch.testing.assert_close(plain, thrifty)


def test_a_module_that_changes_its_input_in_place_is_left_alone():
    odd = nn.Sequential(nn.SiLU(inplace=True), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), odd, nn.Flatten(), nn.Linear(400, 2))
    images = torch.rand(2, 3, 16, 16)
    ways = partitions(net, lambda: net(images).sum().backward())
    assert all(odd not in way for way in ways)


@pytest.mark.parametrize("mixes", [True, False])
def test_a_memory_is_kept_and_only_what_is_needed_is_done(mixes):
    net = network("group norm").eval()

    def run(images):
        net.zero_grad()
        loss_of("contrastive", net(torch.rand(images, 3, 16, 16, dtype=torch.float64))).backward()

    plain = measured(run, 4)
    enough = fitted(run, net, few=4, images=64, budget=1.1 * plain.of(64), mixes=mixes)
    assert not enough[0].modules
    budget = (0.65 if mixes else 0.3) * plain.of(64)
    thrift, need = fitted(run, net, few=4, images=64, budget=budget, mixes=mixes)
    assert thrift.modules and need.of(64) <= budget
    with thrift.applied():
        assert most_bytes(lambda: run(64)) <= 1.05 * budget
    assert most_bytes(lambda: run(64)) > 1.3 * budget


def test_in_bf16_the_second_pass_is_the_first():
    block = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1))
    net = nn.Sequential(nn.Conv2d(3, 8, 3), block, nn.Flatten(), nn.Linear(8 * 144, 2))
    images, found = torch.rand(4, 3, 16, 16), []
    for thrift in (Thrift(), Thrift((block,))):
        net.zero_grad()
        with thrift.applied():
            with autocast(torch.device("cpu"), "bf16"):
                out = net(images)
            out.float().square().mean().backward()
        found.append([p.grad.clone() for p in net.parameters()])
    for plain, thrifty in zip(*found):
        assert torch.equal(plain, thrifty)
