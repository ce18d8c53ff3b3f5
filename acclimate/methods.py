"""One table of methods: plain data. Which model answers, what moves, how, and who published it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from acclimate.errors import unknown_name
from acclimate.objectives import Contrastive
from acclimate.precision import Precision
from acclimate.views import SimCLRViews


@dataclass(frozen=True)
class AdapterSettings:
    """How an adapter learns from each batch before it answers."""

    steps: int = 0
    """Gradient steps a batch."""
    learning_rate: float = 0.0
    """Of every step."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Adam, or SGD without momentum."""
    temperature: float = 0.5
    """τ of the contrastive objective."""
    parameters: str = "all"
    """What moves in the encoder: ``all``, ``norm`` (normalisation layers' scales and shifts), or a
    regular expression that is searched for in the parameters' names."""
    normalisation: Literal["source", "batch", "running"] = "source"
    """Statistics of batch norm in the answer. ``source``: those of the source. ``batch``: the
    batch's own. ``running``: running averages over the views that the steps saw."""
    prior: float = 0.0
    """Under ``batch``: how many images' weight the source's statistics keep (Schneider et al. 2020,
    *Improving robustness against common corruptions by covariate shift adaptation*). Small batches
    and single images lean on them."""
    reset: Literal["batch", "never"] = "batch"
    """Whether each batch starts from the source weights, or from the last batch's."""
    seed: int = 0
    """Of the views."""
    precision: Precision = "auto"
    """bf16 where the device multiplies it natively, or as told."""


@dataclass(frozen=True)
class Method:
    """A row of the table."""

    summary: str
    """One line for people."""
    citation: str
    model: Literal["classifier", "twin"]
    """Which of the bundle's models adapts and answers."""
    stages: tuple[str, ...]
    """What must have been trained before deployment."""
    settings: AdapterSettings
    objective: Callable[[AdapterSettings, dict[str, Any]], Contrastive] | None = None
    """Builds what the steps minimise from the adapter's settings and the bundle's."""


def _contrastive(settings: AdapterSettings, bundled: dict[str, Any]) -> Contrastive:
    return Contrastive(settings.temperature, SimCLRViews(**bundled.get("views", {})))


_CTA = "Barbeau et al., CTA: Cross-Task Alignment for Better Test Time Training"
_PTBN = "Nado et al. 2020, Evaluating prediction-time batch normalization under covariate shift"
_CTA_STAGES = ("supervised", "contrastive", "align")

METHODS: dict[str, Method] = {
    "source": Method(
        "the frozen classifier", "-", "classifier", ("supervised",), AdapterSettings()
    ),
    "ptbn": Method(
        "the classifier with the batch's own batch-norm statistics",
        _PTBN,
        "classifier",
        ("supervised",),
        AdapterSettings(normalisation="batch"),
    ),
    "aligned": Method("the aligned twin, frozen", _CTA, "twin", _CTA_STAGES, AdapterSettings()),
    "aligned-bn": Method(
        "the aligned twin with the batch's batch-norm statistics: cta without its steps",
        _CTA,
        "twin",
        _CTA_STAGES,
        AdapterSettings(normalisation="batch", prior=16),
    ),
    "cta": Method(
        "Cross-Task Alignment, our default settings",
        _CTA,
        "twin",
        _CTA_STAGES,
        AdapterSettings(steps=1, learning_rate=1e-4, normalisation="batch", prior=16),
        _contrastive,
    ),
    "cta-paper": Method(
        "Cross-Task Alignment, adapted with the published settings",
        _CTA,
        "twin",
        _CTA_STAGES,
        AdapterSettings(steps=20, learning_rate=1e-6, temperature=0.01, normalisation="running"),
        _contrastive,
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
