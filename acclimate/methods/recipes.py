"""How a model is made before deployment: plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from acclimate.objectives import (
    Clustering,
    Contrastive,
    ContrastiveMoments,
    Flow,
    MaskedReconstruction,
    NoiseContrastive,
    Objective,
    Reconstruction,
    Rotation,
)


@dataclass(frozen=True)
class Recipe:
    """What is trained before deployment."""

    stages: tuple[str, ...]
    """Names of `acclimate.source.stages.STAGES`, in order."""
    objective: type[Objective] | None = None
    """What is trained with the model, or for it; the bundle keeps it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the objective, as published."""
    form: Literal["plain", "projected", "siamese"] = "plain"
    """What is made of the classifier first; a name of `acclimate.backbones.FORMS`."""
    transformer: bool = False
    """Whether it needs a vision transformer of timm's."""


_TWIN = ("supervised", "contrastive", "align")

RECIPES: dict[str, Recipe] = {
    "supervised": Recipe(("supervised",)),
    "ttt": Recipe(("joint",), Rotation),
    "uda-ss": Recipe(("joint",), Rotation),
    "tttpp": Recipe(("joint",), ContrastiveMoments, {"temperature": 0.5}),
    "clust3": Recipe(("joint",), Clustering),
    "nc-ttt": Recipe(("joint",), NoiseContrastive),
    "rec-ttt": Recipe(("supervised", "joint"), Reconstruction, form="siamese"),
    "y": Recipe(("joint",), Contrastive, {"projection": 128}),
    "cta-c": Recipe(("pretrain", "probe"), Contrastive, form="projected"),
    "cta": Recipe(_TWIN, Contrastive),
    "cta-rotation": Recipe((*_TWIN, "parts"), Rotation, {"tap": None, "copies": 4}),
    "ttt-mae": Recipe(
        ("pretrain", "probe"),
        MaskedReconstruction,
        {"decoder_width": 96, "decoder_depth": 2},
        transformer=True,
    ),
    "ttt-flow": Recipe(("supervised", "parts"), Flow),
}
"""Every way to make a bundle, by its name."""
