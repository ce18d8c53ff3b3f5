"""Two tables, plain data: how a model is made before deployment, and how it adapts there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from acclimate.errors import unknown_name
from acclimate.objectives import Contrastive, Objective
from acclimate.precision import Precision


@dataclass(frozen=True)
class AdapterSettings:
    """How an adapter learns from each batch before it answers."""

    steps: int = 0
    """Gradient steps a batch."""
    learning_rate: float = 0.0
    """Of every step."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Adam, or SGD."""
    momentum: float = 0.0
    """Of SGD."""
    temperature: float | None = None
    """τ of a contrastive objective at deployment; None keeps the one that it was trained with."""
    parameters: str = "all"
    """What moves in the encoder, as far as the objective's gradient reaches: ``all``, ``norm``
    (normalisation layers' scales and shifts), or a regular expression that is searched for in the
    parameters' names."""
    auxiliary: bool = False
    """Whether the objective's own parts (a projector, a branch) move too."""
    normalisation: Literal["source", "batch", "running"] = "source"
    """Statistics of batch norm in the answer. ``source``: those of the source. ``batch``: the
    batch's own. ``running``: running averages over the views that the steps saw."""
    prior: float = 0.0
    """Under ``batch``: how many images' weight the source's statistics keep (Schneider et al. 2020,
    *Improving robustness against common corruptions by covariate shift adaptation*). Small batches
    and single images lean on them."""
    reset: Literal["batch", "never"] = "batch"
    """Whether each batch starts from the source weights, or from the last batch's."""
    one_by_one: bool = False
    """Learn from each image alone, as if it came in a batch of its own."""
    seed: int = 0
    """Of the views."""
    precision: Precision = "auto"
    """bf16 where the device multiplies it natively, or as told."""


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
    labels: bool = True
    """Whether a stage looks at labels of source images."""


@dataclass(frozen=True)
class Method:
    """How a model adapts."""

    summary: str
    """One line for people."""
    citation: str
    recipe: str
    """The row of `RECIPES` that the bundle must have been made by; ``supervised`` is satisfied by
    the classifier of any."""
    settings: AdapterSettings
    model: Literal["classifier", "twin"] = "classifier"
    """Which of the bundle's models adapts and answers."""
    objective: type[Objective] | None = None
    """What the steps minimise: the bundle's, or one that is made on the spot because it has no
    parts to train."""
    batch_norm: bool = False
    """Whether nothing is left of it without batch norm."""
    oracle: bool = False
    """Whether it was shown, before deployment, what it is measured on: no fair competitor."""


_CTA = "Barbeau et al., CTA: Cross-Task Alignment for Better Test Time Training"
_PTBN = "Nado et al. 2020, Evaluating prediction-time batch normalization under covariate shift"

RECIPES: dict[str, Recipe] = {
    "supervised": Recipe(("supervised",)),
    "cta": Recipe(("supervised", "contrastive", "align"), Contrastive),
}
"""Every way to make a bundle, by its name."""

METHODS: dict[str, Method] = {
    "source": Method("the frozen classifier", "-", "supervised", AdapterSettings()),
    "ptbn": Method(
        "the classifier with the batch's own batch-norm statistics",
        _PTBN,
        "supervised",
        AdapterSettings(normalisation="batch"),
        batch_norm=True,
    ),
    "aligned": Method("the aligned twin, frozen", _CTA, "cta", AdapterSettings(), "twin"),
    "aligned-bn": Method(
        "the aligned twin with the batch's batch-norm statistics: cta without its steps",
        _CTA,
        "cta",
        AdapterSettings(normalisation="batch", prior=16),
        "twin",
        batch_norm=True,
    ),
    "cta": Method(
        "Cross-Task Alignment, our default settings",
        _CTA,
        "cta",
        AdapterSettings(
            steps=1, learning_rate=1e-4, temperature=0.5, normalisation="batch", prior=16
        ),
        "twin",
        Contrastive,
    ),
    "cta-paper": Method(
        "Cross-Task Alignment, adapted with the published settings",
        _CTA,
        "cta",
        AdapterSettings(steps=20, learning_rate=1e-6, temperature=0.01, normalisation="running"),
        "twin",
        Contrastive,
    ),
}
"""Every method by its name."""


def method(name: str) -> Method:
    """The row of a name.

    Raises:
        InputError: there is none; with the nearest names.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]
