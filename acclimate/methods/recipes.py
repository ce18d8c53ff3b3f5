"""How models are trained before deployment, as plain data."""

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
    """Training stages and objective of a bundle.

    ```python
    RECIPES["my-rotation"] = Recipe(("supervised", "joint"), Rotation, {"copies": 8})
    ```
    """

    stages: tuple[str, ...]
    """Training stages in order; keys of `acclimate.source.stages.STAGES`."""
    objective: type[Objective] | None = None
    """Objective that is trained jointly or on frozen features, and saved in the bundle."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Published options of the objective."""
    form: Literal["plain", "projected", "siamese"] = "plain"
    """Form of the classifier; a key of `acclimate.backbones.FORMS`."""
    transformer: bool = False
    """Whether the recipe needs a vision transformer from timm."""


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
"""Recipes of all bundles by name."""
