"""A method of your own, from its loss to an adapter: predict whether an image is upside down.

Run: python examples/new_method.py [--quick]
"""

import argparse
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import acclimate
from acclimate.data import corrupt, load, subset
from acclimate.methods import METHODS, RECIPES, AdapterSettings, Method, Recipe
from acclimate.objectives import OBJECTIVES, Objective, ObjectiveOptions
from acclimate.parts.normalisation import BatchStatistics
from acclimate.parts.update import Adam
from acclimate.source.loop import Training
from acclimate.source.presets import PRESETS
from acclimate.views import shifted_crop


class UpsideDown(Objective):
    """Classify whether an image is upright or upside down."""

    def __init__(self, model, preprocessing, *, padding=2):
        super().__init__()
        self.padding = padding
        self.guess = nn.Linear(model.feature_dim, 2)

    def draw(self, images, key, index):
        upright = shifted_crop(images, self.padding, key=key, index=index)
        turned = torch.arange(2, device=images.device).repeat_interleave(len(images))
        return torch.cat([upright, upright.flip(2)]), turned

    def forward(self, model, views, turned):
        return cross_entropy(self.guess(model.encoder(views)).float(), turned)


@dataclass(frozen=True)
class UpsideDownOptions(ObjectiveOptions):
    """There is nothing to set at deployment."""

    kind = UpsideDown


OBJECTIVES["upside-down"] = UpsideDown
RECIPES["upside-down"] = Recipe(("joint",), UpsideDown)
METHODS["upside-down"] = Method(
    summary="predict whether an image is upside down",
    citation="-",
    recipe="upside-down",
    settings=AdapterSettings(
        steps=1,
        objective=UpsideDownOptions(),
        update=Adam(1e-3),
        normalisation=BatchStatistics(prior=16),
    ),
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="run in seconds, with poor accuracy")
    quick = parser.parse_args().quick
    source = subset(load("fashion-mnist-mini", "train"), 1000 if quick else 10_000)
    test = subset(load("fashion-mnist-mini", "test"), 200 if quick else 2000)
    joint = Training(4 if quick else 6, batch=64, learning_rate=1e-2, warm_up=0.5)
    settings = replace(PRESETS["small"], joint=joint, crop_padding=2, cutout=0)
    bundle = acclimate.train("upside-down", "acclimate:resnet8-w8", source, settings)
    noisy, accuracy = corrupt(test.images, "gaussian_noise", 5), []
    for name in ("source", "ptbn", "upside-down"):
        adapter = acclimate.Adapter(bundle, name)
        predictions = torch.cat([adapter(batch).argmax(1) for batch in noisy.split(100)])
        accuracy.append(100 * (predictions == test.labels).float().mean().item())
    print("frozen {:.1f}, batch statistics {:.1f}, adapted {:.1f} % correct".format(*accuracy))
