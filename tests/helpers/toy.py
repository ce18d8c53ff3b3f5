"""The golden values of online methods, and the toy networks that they were computed with."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from acclimate.adapt import Adapter
from acclimate.adapt.loop import adapt
from acclimate.backbones import Classifier
from acclimate.bundle import Bundle
from acclimate.methods import METHODS, Method
from acclimate.preprocessing import Preprocessing

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "online.npz")


def golden(name):
    return torch.from_numpy(np.asarray(GOLDEN[name]))


def close(found, name, rtol=1e-9, atol=1e-10):
    expected = golden(name)
    torch.testing.assert_close(
        found.detach().to(expected.dtype), expected, rtol=rtol, atol=atol, equal_nan=True
    )


class FirstSix(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :6].double()


def toy(norm, statistics=None):
    """A bundle of the toy classifier, in float64, on images that carry six numbers."""
    encoder, head = nn.Sequential(FirstSix(), norm), nn.Linear(6, 10)
    with torch.no_grad():
        norm.weight.copy_(golden("toy_norm_weight"))
        norm.bias.copy_(golden("toy_norm_bias"))
        head.weight.copy_(golden("toy_head_weight"))
        head.bias.copy_(golden("toy_head_bias"))
    return bundle_of(encoder, head, 2, statistics)


def bundle_of(encoder, head, size, statistics=None):
    classifier = Classifier(encoder, head).double().eval()
    preprocessing = Preprocessing(size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    classes = tuple("abcdefghij")
    return Bundle(
        classifier, None, preprocessing, classes, method="source", statistics=statistics or {}
    )


def adapter_of(monkeypatch, bundle, settings):
    monkeypatch.setitem(METHODS, "new", Method("", "", "supervised", settings))
    return Adapter(bundle, "new", device="cpu", precision="fp32")


def carried(x):
    """Numbers as images of 2 x 2 pixels."""
    return torch.cat([x, torch.zeros(len(x), 6)], dim=1).double().view(-1, 3, 2, 2)


def learn(adapter, images):
    """The answer and the report of the one step on a batch of images in float64."""
    with torch.no_grad():
        logits, [step] = adapt(adapter._learner, images, torch.arange(len(images)))
    return logits[-1], step


def spied(adapter):
    """The weights of each pass, as the selection gives them."""
    selection, weights = adapter._learner.selection, []

    def spy(outcome):
        weights.append(selection(outcome))
        return weights[-1]

    adapter._learner.selection = spy
    return weights
