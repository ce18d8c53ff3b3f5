"""Classifiers: build one by name, split any into its encoder and its linear head."""

from acclimate.backbones.classifier import Classifier
from acclimate.backbones.forms import FORMS, projected
from acclimate.backbones.registry import build
from acclimate.backbones.resnet import preact_resnet, resnet, resnet50
from acclimate.backbones.split import split
from acclimate.backbones.taps import tapped

__all__ = [
    "FORMS",
    "Classifier",
    "build",
    "preact_resnet",
    "projected",
    "resnet",
    "resnet50",
    "split",
    "tapped",
]
