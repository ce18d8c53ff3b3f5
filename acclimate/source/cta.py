"""Cross-Task Alignment before deployment, from labelled images or from a classifier you have.

Barbeau et al., *CTA: Cross-Task Alignment for Better Test Time Training*.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from acclimate import __version__
from acclimate.backbones import build, split
from acclimate.bundle import CUSTOM, Bundle
from acclimate.data.datasets import LabelledImages
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing, check_images
from acclimate.randomness import key
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run
from acclimate.source.presets import PRESETS, CTASettings, check_settings
from acclimate.source.supervised import supervised
from acclimate.source.twin import make_twin


def train_cta(
    model: str,
    data: LabelledImages,
    settings: CTASettings = PRESETS["small"],
    run: Run | None = None,
    *,
    weights: Path | None = None,
) -> Bundle:
    """All of CTA from labelled source images: the classifier, the twin, the alignment.

    Args:
        model: A name, as `acclimate.build` takes it.
        data: Source images and their classes.
        settings: The three stages.
        run: Seed, checkpoints, device, progress.
        weights: A .safetensors file that the classifier, and a separate twin, begin from.

    Raises:
        InputError: as `acclimate.build` and `acclimate.source.loop.train`.
    """
    run = run or Run()
    check_settings(settings)
    classes = len(data.classes)
    classifier = split(_initial(model, classes, run, "classifier", weights))
    source = SourceImages(data.images, Preprocessing.fit(data.images), data.labels)
    supervised(
        classifier,
        source,
        settings.supervised,
        run,
        padding=settings.crop_padding,
        cutout_size=settings.cutout,
        label_smoothing=settings.label_smoothing,
    )
    start = None
    if settings.start == "separate":
        start = split(_initial(model, classes, run, "twin", weights)).encoder
    return Bundle(
        twin=make_twin(classifier, source, settings, run, start=start).cpu(),
        classifier=classifier.cpu(),
        preprocessing=source.preprocessing,
        classes=data.classes,
        objective={"views": asdict(settings.views)},
        architecture=model,
        twin_architecture=model,
        provenance=provenance(settings, run, source=data.name),
    )


def align(
    model: nn.Module | str,
    images: UInt8[Tensor, "n 3 h w"],
    *,
    weights: Path | None = None,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    settings: CTASettings = PRESETS["small"],
    run: Run | None = None,
    twin: nn.Module | str | None = None,
    labels: Int64[Tensor, "n"] | None = None,
    head: str | None = None,
) -> Bundle:
    """CTA on a classifier that you already have, from unlabelled source images alone.

    ```python
    bundle = acclimate.align(model, images)
    bundle.save("bundle")
    ```

    Args:
        model: Any network that ends in a linear layer, or the name of a registered one. It is not
            changed, apart from being put into evaluation mode.
        images: Unlabelled source images, uint8, of one size.
        weights: For a model given by name: its .safetensors file.
        classes: A name for each output; None numbers them.
        preprocessing: What the model expects; None takes the images' size and ImageNet's mean and
            standard deviation.
        settings: The contrastive and the alignment stage.
        run: Seed, checkpoints, device, progress.
        twin: A network, or the name of one, to begin the twin from, whose features have the
            classifier's size; None begins as ``settings.start`` says.
        labels: Classes of the images; only ``settings.trainable_classifier`` needs them.
        head: The dotted name of the linear head, where it is not the last linear layer.

    Returns:
        The bundle. That of an unregistered network is loaded with
        ``Bundle.load(path, model=net)``.

    Raises:
        InputError: no linear head, images that are none, features that do not fit, and as
            `acclimate.build` and `acclimate.source.loop.train`.
    """
    run = run or Run()
    check_settings(settings)
    check_images(images)
    network = build(model, classes=None, weights=weights) if isinstance(model, str) else model
    classifier = copy.deepcopy(split(network.eval(), head=head))
    names = tuple(classes or map(str, range(classifier.num_classes)))
    if len(names) != classifier.num_classes:
        raise InputError(
            f"{len(names)} class names were given for a head with {classifier.num_classes} outputs."
        )
    architecture = model if isinstance(model, str) else CUSTOM
    if twin is None and settings.start == "separate":
        if not isinstance(model, str):
            raise InputError("give twin=NETWORK to start it separately, or set start to 'copy'.")
        twin = model
    start, twin_architecture = None, architecture
    if isinstance(twin, str):
        start, twin_architecture = split(_initial(twin, len(names), run, "twin")).encoder, twin
    elif twin is not None:
        start, twin_architecture = split(twin).encoder, CUSTOM
    source = SourceImages(images, preprocessing or Preprocessing(images.shape[-1]), labels)
    if labels is not None and not 0 <= labels.min() <= labels.max() < len(names):
        raise InputError(f"labels must lie in 0..{len(names) - 1}, the outputs of the head.")
    return Bundle(
        twin=make_twin(classifier, source, settings, run, start=start).cpu(),
        classifier=classifier.cpu(),
        preprocessing=source.preprocessing,
        classes=names,
        objective={"views": asdict(settings.views)},
        architecture=architecture,
        twin_architecture=twin_architecture,
        provenance=provenance(settings, run, source=f"{len(images)} unlabelled images"),
    )


def _initial(
    name: str, classes: int, run: Run, purpose: str, weights: Path | None = None
) -> nn.Module:
    """A network as it is before training: from a file, or seeded random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(run.seed, "initial weights", purpose) & (2**63 - 1))
        return build(name, classes=classes, weights=weights)


def provenance(settings: CTASettings, run: Run, *, source: str) -> dict[str, Any]:
    """What a reader of a bundle wants to know of its making."""
    return {
        "source": source,
        "seed": run.seed,
        "settings": asdict(settings),
        "seconds": {
            stage: round(sum(epoch["seconds"] for epoch in epochs), 1)
            for stage, epochs in run.history.items()
        },
        "acclimate": __version__,
        "torch": torch.__version__,
    }
