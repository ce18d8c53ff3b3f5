"""CTA's settings before deployment: the paper's, and what two cores can afford."""

from dataclasses import dataclass, replace

from acclimate.source.loop import Training
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
    crop_padding: int = 4
    """The largest shift of the supervised crop, in pixels."""
    trainable_classifier: bool = False
    """Whether f moves while the twin is aligned, with cross entropy added; needs labels."""
    label_smoothing: float = 0.0
    """Share of the supervised target that is spread over all classes."""


PRESETS = {
    "paper": CTASettings(),
    "small": CTASettings(
        supervised=Training(
            epochs=15,
            optimizer="sgd",
            learning_rate=0.2,
            final_learning_rate=1e-4,
            weight_decay=5e-4,
        ),
        contrastive=Training(epochs=2, warm_up=0.5),
        align=Training(epochs=15, batch=128, learning_rate=1e-3, warm_up=0.5),
        contrastive_temperature=0.5,
        views=SimCLRViews(smallest_crop=0.5),
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
