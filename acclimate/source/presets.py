"""Settings of source training: CTA's published ones, and a preset for two CPU cores."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from acclimate.errors import InputError
from acclimate.source.loop import Training, check_training
from acclimate.views import SimCLRViews


@dataclass(frozen=True)
class Supervision:
    """Augmentation and label smoothing for training with cross entropy."""

    crop_padding: int
    """Largest shift of the random crop, in pixels."""
    cutout: int
    """Side of the square that is blackened in each image, in pixels."""
    label_smoothing: float
    """Share of the target that is spread over all classes."""


@dataclass(frozen=True)
class SourceSettings:
    """Settings of all stages; a method trains those in its recipe. The defaults are CTA's.

    ```python
    settings = replace(PRESETS["small"], align=Training(epochs=20), start="separate")
    bundle = acclimate.train("cta", "acclimate:resnet26", data, settings)
    ```
    """

    supervised: Training = Training()
    """Training of the classifier h∘f by cross entropy."""
    joint: Training = Training()
    """Training of classifier and objective together: TTT, TTT++, ClusT3, NC-TTT, ReC-TTT, Y."""
    pretrain: Training = Training()
    """Training of the encoder by the objective alone: CTA-C, TTT-MAE."""
    probe: Training = Training()
    """Training of the head on a frozen encoder: CTA-C, TTT-MAE."""
    parts: Training = Training()
    """Training of the objective's own layers on a frozen model: TTTFlow, CTA with rotations."""
    contrastive: Training = Training()
    """Training of the twin π∘g by Eq. 1 or another self-supervised task."""
    align: Training = Training()
    """Alignment of the twin with the frozen f by Eq. 4."""
    weight: float = 1.0
    """λ, the weight of the objective's loss beside the cross entropy in the joint stage."""
    contrastive_temperature: float = 0.01
    """τ of Eq. 1, also for CTA-C and the Y model; TTT++ has its own."""
    align_temperature: float = 0.5
    """τ of Eq. 4; in the paper's ablation, higher values are better."""
    views: SimCLRViews = SimCLRViews()
    """Augmentation of the twin's views."""
    start: Literal["copy", "separate"] = "separate"
    """Initial weights of the twin: a copy of the trained f, or, as in the paper's experiments, the
    initial weights of f (from a file, or random)."""
    interpolation: float | None = 1.0
    """Share of the aligned weights in the deployed twin, if it was initialised as a copy of a
    frozen f; the rest is the weights of that copy (Wortsman et al. 2022, *Robust fine-tuning of
    zero-shot models*). 1 is CTA; None takes the share that is best on held-out source images,
    without labels."""
    crop_padding: int = 4
    """Largest shift of the random crop in supervised training, in pixels."""
    cutout: int = 0
    """Side of the square that is blackened in each image in supervised training, in pixels; the
    preset's value suits images of about 32 pixels."""
    trainable_classifier: bool = False
    """Whether f is trained during the alignment, with cross entropy added; needs labels."""
    label_smoothing: float = 0.0
    """Share of the supervised target that is spread over all classes."""

    @property
    def supervision(self) -> Supervision:
        """Augmentation and label smoothing of the stages with cross entropy."""
        return Supervision(self.crop_padding, self.cutout, self.label_smoothing)


STAGES = ("supervised", "joint", "pretrain", "probe", "parts", "contrastive", "align")
"""Names of the fields of `SourceSettings` that hold a stage's settings."""

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
        interpolation=None,
        views=SimCLRViews(smallest_crop=0.5),
        cutout=8,
    ),
}
"""``paper``: the published settings. ``small``: settings that two CPU cores can afford."""


def with_epochs(settings: SourceSettings, epochs: int) -> SourceSettings:
    """The same settings with the number of epochs of every stage replaced."""
    stages = {name: replace(getattr(settings, name), epochs=epochs) for name in STAGES}
    return replace(settings, **stages)


def check_settings(settings: SourceSettings) -> None:
    """Check the settings of all stages before the first one starts.

    Raises:
        InputError: a number is out of range, or an optimiser is unknown.
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
        ("interpolation", _measured(settings.interpolation), 0, 1),
        ("label_smoothing", settings.label_smoothing, 0, 1),
        ("views.smallest_crop", views["smallest_crop"], 1e-6, 1),
        *((f"views.{name}", views[name], 0, 1) for name in views if name.endswith("probability")),
        *((f"views.{name}", views[name], 0, math.inf) for name in _COLOURS),
    ):
        if not (math.isfinite(value) and low <= value <= high):
            limits = f"from {low:g} to {high:g}" if high < math.inf else f"from {low:g}"
            raise InputError(f"{name} must be a finite number {limits}, not {value}.")


def _measured(share: float | None) -> float:
    """The share; any that is allowed where it will be measured."""
    return 1.0 if share is None else share
