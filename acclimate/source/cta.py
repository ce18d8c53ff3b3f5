"""Cross-Task Alignment before deployment: the classifier, the twin, the alignment.

Barbeau et al., *CTA: Cross-Task Alignment for Better Test Time Training*.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from acclimate.backbones import Classifier, build, split
from acclimate.bundle import copied_twin
from acclimate.data.datasets import LabelledImages
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import key
from acclimate.source.align import align, features, match_scale
from acclimate.source.contrastive import contrastive
from acclimate.source.loop import Run, Training
from acclimate.source.supervised import supervised
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
        contrastive=Training(epochs=3, learning_rate=5e-4, warm_up=0.5),
        align=Training(epochs=15, learning_rate=1e-3, warm_up=0.5),
        contrastive_temperature=0.5,
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


def make_twin(
    classifier: Classifier,
    images: UInt8[Tensor, "n 3 h w"],
    preprocessing: Preprocessing,
    settings: CTASettings,
    run: Run,
    *,
    start: nn.Module | None = None,
    identity: object = None,
) -> Classifier:
    """Train and align the twin of a frozen classifier, without labels.

    Args:
        classifier: h∘f; unchanged, on return on the run's device and in evaluation mode.
        images: Unlabelled source images.
        preprocessing: Of the classifier.
        settings: The stages; ``supervised`` is not used.
        run: Seed, checkpoints, device, progress.
        start: An encoder to begin the twin from, with the classifier's feature size; a copy of it is
            trained. None begins from a copy of f.
        identity: What determines classifier and images, for the checkpoints.

    Returns:
        h'∘(π∘g), in evaluation mode: its encoder is g and then π, its head a copy of h with one
        factor folded into the weight, so that logits have the classifier's scale.

    Raises:
        InputError: the twin's feature size is not the classifier's; and as
            `acclimate.source.loop.train`.
    """
    classifier.requires_grad_(False).eval()
    begin = classifier.encoder if start is None else start
    twin = copied_twin(begin, classifier.feature_dim, classifier.head)
    branch = twin.encoder.requires_grad_(True)  # π∘g
    _check_dimension(branch, images, preprocessing, classifier.feature_dim)
    contrastive(
        branch,
        images,
        preprocessing,
        settings.contrastive,
        run,
        temperature=settings.contrastive_temperature,
        views=settings.views,
        identity=identity,
    )
    classifier.to(next(branch.parameters()).device)
    align(
        branch,
        classifier,
        images,
        preprocessing,
        settings.align,
        run,
        temperature=settings.align_temperature,
        views=settings.views,
        identity=[identity, vars(settings.contrastive), settings.contrastive_temperature],
    )
    sample = images[:: max(1, len(images) // 2048)]
    own = features(branch, sample, preprocessing, run)
    target = features(classifier.encoder, sample, preprocessing, run)
    with torch.no_grad():
        twin.head.weight.mul_(match_scale(twin.head, own, target))
    return twin.requires_grad_(False).eval()


@torch.no_grad()
def _check_dimension(
    branch: nn.Module, images: Tensor, preprocessing: Preprocessing, dim: int
) -> None:
    device = next(branch.parameters()).device
    found = branch.eval().get_submodule("encoder")(preprocessing(images[:1].to(device)))
    if found.ndim != 2 or found.shape[1] != dim:
        raise InputError(
            f"the twin's encoder gives features {list(found.shape[1:])}, the classifier's [{dim}]; "
            f"choose a twin of the same feature size."
        )


def fingerprint(images: UInt8[Tensor, "n 3 h w"], limit: int = 1024) -> str:
    """A hash that tells image sets apart: their shape and up to ``limit`` images, evenly spaced."""
    sample = images[:: max(1, len(images) // limit)].contiguous()
    shape = repr(tuple(images.shape)).encode()
    return hashlib.sha256(shape + sample.numpy().tobytes()).hexdigest()


def train_classifier(
    model: str,
    data: LabelledImages,
    settings: CTASettings,
    run: Run,
    *,
    weights: Path | None = None,
) -> tuple[Classifier, Preprocessing]:
    """Build a classifier and train it on labelled source images.

    Args:
        model: Its name, as `acclimate.backbones.build` takes it.
        data: Source images and their classes.
        settings: ``supervised``, ``crop_padding`` and ``label_smoothing`` are used.
        run: Seed, checkpoints, device, progress.
        weights: A .safetensors file to begin from.

    Returns:
        The classifier, in evaluation mode, and the preprocessing fitted to the images.

    Raises:
        InputError: as `acclimate.backbones.build` and `acclimate.source.loop.train`.
    """
    torch.manual_seed(key(run.seed, "initial weights") & (2**63 - 1))
    classifier = split(build(model, classes=len(data.classes), weights=weights))
    preprocessing = Preprocessing.fit(data.images)
    supervised(
        classifier,
        data.images,
        data.labels,
        preprocessing,
        settings.supervised,
        run,
        padding=settings.crop_padding,
        label_smoothing=settings.label_smoothing,
        identity={"model": model, "images": fingerprint(data.images)},
    )
    return classifier, preprocessing
