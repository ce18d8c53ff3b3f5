"""Classifiers: build one by name, split any into its encoder and its linear head."""

from acclimate.backbones.classifier import Classifier
from acclimate.backbones.registry import build
from acclimate.backbones.resnet import preact_resnet, resnet, resnet50
from acclimate.backbones.split import split

__all__ = ["Classifier", "build", "preact_resnet", "resnet", "resnet50", "split"]
