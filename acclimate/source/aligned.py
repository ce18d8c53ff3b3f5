"""Cross-Task Alignment of a classifier that you already have.

Barbeau et al., *CTA: Cross-Task Alignment for Better Test Time Training*.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from acclimate.backbones import build, split
from acclimate.bundle import CUSTOM, Bundle
from acclimate.errors import InputError
from acclimate.methods import RECIPES
from acclimate.preprocessing import Preprocessing, check_images
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run
from acclimate.source.presets import PRESETS, SourceSettings, check_settings
from acclimate.source.train import begin, initial, make


def align(
    model: nn.Module | str,
    images: UInt8[Tensor, "n 3 h w"],
    *,
    weights: Path | None = None,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    settings: SourceSettings = PRESETS["small"],
    run: Run | None = None,
    twin: nn.Module | str | None = None,
    labels: Int64[Tensor, " n"] | None = None,
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
    if twin is None and settings.start == "separate":
        if not isinstance(model, str):
            raise InputError("give twin=NETWORK to start it separately, or set start to 'copy'.")
        twin = model
    start = None if twin is None else _encoder(twin, len(names), run)
    source = SourceImages(images, preprocessing or Preprocessing(images.shape[-1]), labels)
    if labels is not None and not 0 <= labels.min() <= labels.max() < len(names):
        raise InputError(f"labels must lie in 0..{len(names) - 1}, the outputs of the head.")
    recipe = replace(RECIPES["cta"], stages=("contrastive", "align"))
    work = begin(recipe, classifier, source, settings, run, start=start)
    work.classifier.requires_grad_(False).eval()
    bundle = make(work, recipe, names, origin=f"{len(images)} unlabelled images")
    return replace(
        bundle, architecture=_name(model), twin_architecture=_name(model if twin is None else twin)
    )


def _name(network: nn.Module | str) -> str:
    """Of its architecture, for the bundle."""
    return network if isinstance(network, str) else CUSTOM


def _encoder(twin: nn.Module | str, classes: int, run: Run) -> nn.Module:
    """What the twin begins from."""
    return split(initial(twin, classes, run, "twin") if isinstance(twin, str) else twin).encoder
