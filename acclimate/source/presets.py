"""Settings of the stages before deployment: CTA's published ones, and what two cores can afford."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from acclimate.errors import InputError
from acclimate.source.loop import Training, check_training
from acclimate.views import SimCLRViews


@dataclass(frozen=True)
class Supervision:
    """How labelled images are shown to a classifier."""

    crop_padding: int
    cutout: int
    label_smoothing: float


@dataclass(frozen=True)
class SourceSettings:
    """Every stage; a method trains those that its recipe names. The defaults are CTA's."""

    supervised: Training = Training()
    """The classifier h∘f, by cross entropy."""
    joint: Training = Training()
    """Classifier and objective together: TTT, TTT++, ClusT3, NC-TTT, ReC-TTT, Y."""
    pretrain: Training = Training()
    """The encoder by the objective alone: CTA-C, TTT-MAE."""
    probe: Training = Training()
    """The head on a frozen encoder: CTA-C, TTT-MAE."""
    parts: Training = Training()
    """The objective's own parts on a frozen model: TTTFlow, a twin with another task."""
    contrastive: Training = Training()
    """The twin π∘g, by Eq. 1 or another task."""
    align: Training = Training()
    """The twin to the frozen f, by Eq. 4."""
    weight: float = 1.0
    """λ of the objective beside the cross entropy, in the joint stage."""
    contrastive_temperature: float = 0.01
    """τ of Eq. 1, also for CTA-C and the Y model; TTT++ has its own."""
    align_temperature: float = 0.5
    """τ of Eq. 4; the paper's ablation finds higher better."""
    views: SimCLRViews = SimCLRViews()
    """How the twin's views are drawn."""
    start: Literal["copy", "separate"] = "separate"
    """What the twin begins from: a copy of the trained f, or, as in the paper's experiments, what f
    itself began from (weights from a file, or random ones)."""
    interpolation: float = 1.0
    """Share of the aligned weights in the twin that is deployed, where it began as a copy of an f
    that stays frozen; the rest is that copy (Wortsman et al. 2022, *Robust fine-tuning of zero-shot
    models*). 1 is CTA."""
    crop_padding: int = 4
    """The largest shift of the supervised crop, in pixels."""
    cutout: int = 0
    """Side of the square that supervised training blackens in each image, in pixels; the preset's
    suits images of about 32."""
    trainable_classifier: bool = False
    """Whether f moves while the twin is aligned, with cross entropy added; needs labels."""
    label_smoothing: float = 0.0
    """Share of the supervised target that is spread over all classes."""

    @property
    def supervision(self) -> Supervision:
        """How labelled images are shown."""
        return Supervision(self.crop_padding, self.cutout, self.label_smoothing)


STAGES = ("supervised", "joint", "pretrain", "probe", "parts", "contrastive", "align")
"""The fields of `SourceSettings` that are stages."""

_COLOURS = ("brightness", "contrast", "saturation", "hue")

_LABELLED = Training(
    epochs=42, optimizer="sgd", learning_rate=0.2, final_learning_rate=1e-4, weight_decay=5e-4
)

PRESETS = {
    "paper": SourceSettings(),
    "small": SourceSettings(
        supervised=_LABELLED,
        joint=_LABELLED,
        pretrain=Training(epochs=42, learning_rate=1e-3),
        probe=Training(epochs=10, learning_rate=1e-3),
        parts=Training(epochs=10, learning_rate=1e-3),
        contrastive=Training(epochs=1, warm_up=0.5),
        align=Training(epochs=10, learning_rate=1e-3, warm_up=0.5),
        contrastive_temperature=0.5,
        start="copy",
        interpolation=0.7,
        views=SimCLRViews(smallest_crop=0.5),
        cutout=8,
    ),
}
"""``paper``: the published settings. ``small``: what two cores can afford."""


def with_epochs(settings: SourceSettings, epochs: int) -> SourceSettings:
    """The same settings with every stage's length set."""
    stages = {name: replace(getattr(settings, name), epochs=epochs) for name in STAGES}
    return replace(settings, **stages)


def check_settings(settings: SourceSettings) -> None:
    """Refuse what a later stage could not use, before the first one has taken its hours.

    Raises:
        InputError: a number out of range, or an unknown optimiser.
    """
    for stage in STAGES:
        check_training(stage, getattr(settings, stage))
    views = vars(settings.views)
    for name, value, low, high in (
        ("contrastive_temperature", settings.contrastive_temperature, 1e-6, math.inf),
        ("align_temperature", settings.align_temperature, 1e-6, math.inf),
        ("cutout", settings.cutout, 0, math.inf),
        ("crop_padding", settings.crop_padding, 0, math.inf),
        ("weight", settings.weight, 0, math.inf),
        ("interpolation", settings.interpolation, 0, 1),
        ("label_smoothing", settings.label_smoothing, 0, 1),
        ("views.smallest_crop", views["smallest_crop"], 1e-6, 1),
        *((f"views.{name}", views[name], 0, 1) for name in views if name.endswith("probability")),
        *((f"views.{name}", views[name], 0, math.inf) for name in _COLOURS),
    ):
        if not (math.isfinite(value) and low <= value <= high):
            limits = f"from {low:g} to {high:g}" if high < math.inf else f"from {low:g}"
            raise InputError(f"{name} must be a finite number {limits}, not {value}.")
