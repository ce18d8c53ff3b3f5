"""Networks with maps of many kinds, and shifted images."""

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
