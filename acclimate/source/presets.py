"""CTA's settings before deployment: the paper's, and what two cores can afford."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from acclimate.errors import InputError
from acclimate.source.loop import Training, check_training
from acclimate.views import SimCLRViews


@dataclass(frozen=True)
class CTASettings:
    """The three source stages of CTA. The defaults are the paper's."""

    supervised: Training = Training()
    """The classifier h∘f, by cross entropy."""
    contrastive: Training = Training()
    """The twin π∘g, by Eq. 1."""
    align: Training = Training()
    """The twin to the frozen f, by Eq. 4."""
    contrastive_temperature: float = 0.01
    """τ of Eq. 1."""
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


_COLOURS = ("brightness", "contrast", "saturation", "hue")

PRESETS = {
    "paper": CTASettings(),
    "small": CTASettings(
        supervised=Training(
            epochs=42,
            optimizer="sgd",
            learning_rate=0.2,
            final_learning_rate=1e-4,
            weight_decay=5e-4,
        ),
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


def with_epochs(settings: CTASettings, epochs: int) -> CTASettings:
    """The same settings with every stage's length set."""
    stages = {
        name: replace(getattr(settings, name), epochs=epochs)
        for name in ("supervised", "contrastive", "align")
    }
    return replace(settings, **stages)


def check_settings(settings: CTASettings) -> None:
    """Refuse what a later stage could not use, before the first one has taken its hours.

    Raises:
        InputError: a number out of range, or an unknown optimiser.
    """
    for stage in ("supervised", "contrastive", "align"):
        check_training(stage, getattr(settings, stage))
    views = vars(settings.views)
    for name, value, low, high in (
        ("contrastive_temperature", settings.contrastive_temperature, 1e-6, math.inf),
        ("align_temperature", settings.align_temperature, 1e-6, math.inf),
        ("cutout", settings.cutout, 0, math.inf),
        ("crop_padding", settings.crop_padding, 0, math.inf),
        ("interpolation", settings.interpolation, 0, 1),
        ("label_smoothing", settings.label_smoothing, 0, 1),
        ("views.smallest_crop", views["smallest_crop"], 1e-6, 1),
        *((f"views.{name}", views[name], 0, 1) for name in views if name.endswith("probability")),
        *((f"views.{name}", views[name], 0, math.inf) for name in _COLOURS),
    ):
        if not (math.isfinite(value) and low <= value <= high):
            limits = f"from {low:g} to {high:g}" if high < math.inf else f"from {low:g}"
            raise InputError(f"{name} must be a finite number {limits}, not {value}.")
