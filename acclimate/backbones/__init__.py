"""Build a classifier by name, split a network into encoder and head, tap any layer."""

from acclimate.backbones.classifier import Classifier
from acclimate.backbones.copies import (
    check_finite,
    duplicate,
    forgetful,
    in_float32,
    settled,
)
from acclimate.backbones.forms import FORMS, projected
from acclimate.backbones.head_parts import class_weights, moving_parameters
from acclimate.backbones.heads import is_plain
from acclimate.backbones.registry import build, recorded_name
from acclimate.backbones.resnet import preact_resnet, resnet, resnet50
from acclimate.backbones.rest import rest_after
from acclimate.backbones.split import split
from acclimate.backbones.stages import as_map, block_names, resolve_tap, stage_names
from acclimate.backbones.stated import preprocessing_of
from acclimate.backbones.taps import tapped, to_the_end
from acclimate.backbones.vit import attend_plainly, vit

__all__ = [
    "FORMS",
    "Classifier",
    "as_map",
    "attend_plainly",
    "block_names",
    "build",
    "check_finite",
    "class_weights",
    "duplicate",
    "forgetful",
    "in_float32",
    "is_plain",
    "moving_parameters",
    "preact_resnet",
    "preprocessing_of",
    "projected",
    "recorded_name",
    "resnet",
    "resnet50",
    "resolve_tap",
    "rest_after",
    "settled",
    "split",
    "stage_names",
    "tapped",
    "to_the_end",
    "vit",
]
