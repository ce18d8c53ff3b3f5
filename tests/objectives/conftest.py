"""Networks with maps of many kinds, shifted images, and how losses are compared and lowered."""

import pytest
import torch
from torch import nn
from torchvision import models

from acclimate.backbones import Classifier, build, split
from acclimate.preprocessing import Preprocessing


class Tokens(nn.Module):
    """Eight-pixel patches, two transformer blocks of ``[batch, tokens, channels]``, their mean."""

    def __init__(self, channels=12):
        super().__init__()
        self.patches = nn.Conv2d(3, channels, 8, stride=8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(channels, 2, 16, dropout=0.0, batch_first=True)
            for _ in range(2)
        )

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens.mean(1)


@pytest.fixture(params=["acclimate", "torchvision", "tokens"])
def network(request):
    """A small classifier of 32-pixel images in training mode, and how these are prepared."""
    torch.manual_seed(0)
    if request.param == "acclimate":
        model = split(build("acclimate:resnet8-w8", classes=4))
    elif request.param == "torchvision":
        model = split(models.resnet18(num_classes=4))
    else:
        model = Classifier(Tokens(), nn.Linear(12, 4))
    return model.train(), Preprocessing(32, (0.5, 0.4, 0.3), (0.3, 0.2, 0.25))


@pytest.fixture(scope="session")
def clean():
    """Smooth pictures, float ``[48, 3, 32, 32]`` in 0..1."""
    coarse = torch.rand(48, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    return nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")


@pytest.fixture(scope="session")
def shifted(clean):
    """The same pictures, noisy and dark."""
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    return (0.5 * clean + 0.2 * noise).clamp(0, 1)


@pytest.fixture(scope="session")
def descend():
    """Take steps of Adam on ``loss(step)``; gives each step's loss."""

    def descend(parameters, loss, *, steps, rate):
        optimizer = torch.optim.Adam(parameters, rate)
        losses = []
        for step in range(steps):
            value = loss(step)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(value.item())
        return losses

    return descend


@pytest.fixture(scope="session")
def learn(descend):
    """Train on source images or adapt to shifted ones, step by step; gives each step's loss."""

    def learn(objective, network, images, parameters, *, on, **options):
        model, preprocessing = network
        draw, loss = {
            "source": (objective.source_draw, objective.source_loss),
            "target": (objective.draw, objective),
        }[on]

        def drawn_loss(step):
            views, *drawn = draw(images, step, torch.arange(len(images)))
            return loss(model, preprocessing.normalize(views), *drawn)

        return descend(parameters, drawn_loss, **options)

    return learn


@pytest.fixture(scope="session")
def assert_same_with_gradients():
    """Two losses of the same float64 inputs are equal, and their gradients are."""

    def check(found, expected, inputs):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        gradients = (torch.autograd.grad(x, inputs, retain_graph=True) for x in (found, expected))
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)

    return check


@pytest.fixture(scope="session")
def assert_precise_in_bf16():
    """Under bf16 autocast a loss and its gradients are those of the formula in float64."""

    def check(loss, plain, features):
        truth = [f.requires_grad_() for f in features]
        single = [f.detach().float().requires_grad_() for f in truth]
        expected = plain(*truth)
        assert 0.1 < expected < 5
        with torch.autocast("cpu", torch.bfloat16):
            found = loss(*single)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-6)
        gradients = torch.autograd.grad(expected, truth)
        largest = max(g.abs().max().item() for g in gradients)
        for ours, theirs in zip(torch.autograd.grad(found, single), gradients):
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-3 * largest)

    return check
