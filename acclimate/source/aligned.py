"""Cross-Task Alignment of an existing classifier.

Barbeau et al., *CTA: Cross-Task Alignment for Better Test Time Training*.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from acclimate.backbones import build, duplicate, in_float32, recorded_name, split
from acclimate.backbones.stated import default_preprocessing
from acclimate.backbones.trace import input_channels
from acclimate.bundle import CUSTOM, Bundle
from acclimate.errors import InputError
from acclimate.methods import RECIPES
from acclimate.preprocessing import Preprocessing, check_images
from acclimate.runtime.precision import usual_defaults
from acclimate.source.class_names import class_names
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run
from acclimate.source.presets import PRESETS, SourceSettings, check_settings
from acclimate.source.train import begin, initial, make


@usual_defaults()
def align(
    model: nn.Module | str,
    images: UInt8[Tensor, "n channels h w"],
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
    """CTA for an existing classifier, from unlabelled source images.

    ```python
    bundle = acclimate.align(model, images)
    bundle.save("bundle")
    ```

    Args:
        model: Any network that `acclimate.split` accepts, or a name as for `acclimate.build`. A
            network is put into evaluation mode and otherwise not changed; the bundle has it in
            float32.
        images: Unlabelled source images, uint8, of one size; resized unless it is the model's.
        weights: The checkpoint of a model given by name, as for `acclimate.build`.
        classes: The class name of each output; None takes ImageNet's or those of a transformers
            model where they are known, and otherwise numbers.
        preprocessing: The model's preprocessing; None takes what its library states, see
            `acclimate.backbones.stated.default_preprocessing`.
        settings: Settings of the contrastive and the alignment stage.
        run: Seed, checkpoints, device, progress.
        twin: A network, or its name, that initialises the twin; its features must have the
            classifier's size. None initialises it according to ``settings.start``.
        labels: Labels of the images; only ``settings.trainable_classifier`` needs them.
        head: The dotted name of the head, if `acclimate.split` is not to find it.

    Returns:
        The bundle. For an unregistered network, load it with ``Bundle.load(path, model=net)``.

    Raises:
        InputError: the model cannot be split or its head takes maps, the images have the wrong
            shape or dtype, the twin's features have another size; or as `acclimate.build`.
    """
    check_settings(settings)
    network = build(model, classes=None, weights=weights) if isinstance(model, str) else model
    channels = preprocessing.channels if preprocessing else input_channels(network)
    check_images(images, channels)
    stated = default_preprocessing(model, *images.shape[1:])
    classifier = in_float32(duplicate(split(network.eval(), head=head)))
    names = class_names(classes, model, classifier.num_classes)
    run, twin = run or Run(), _start_of_twin(model, twin, settings)
    start = None if twin is None else _encoder(twin, len(names), run)
    source = SourceImages(images, preprocessing or stated, labels)
    _check_labels(labels, len(names))
    recipe = replace(RECIPES["cta"], stages=("contrastive", "align"))
    work = begin(recipe, classifier, source, settings, run, start=start)
    work.classifier.requires_grad_(False).eval()
    bundle = make(work, recipe, names, origin=f"{len(images)} unlabelled images")
    return replace(
        bundle, architecture=_name(model), twin_architecture=_name(model if twin is None else twin)
    )


def _start_of_twin(
    model: nn.Module | str, twin: nn.Module | str | None, settings: SourceSettings
) -> nn.Module | str | None:
    """The network that initialises the twin; None for a copy of the classifier's encoder."""
    if twin is not None or settings.start == "copy":
        return twin
    if not isinstance(model, str):
        raise InputError("give twin=NETWORK to start it separately, or set start to 'copy'.")
    return model


def _check_labels(labels: Tensor | None, classes: int) -> None:
    if labels is not None and not 0 <= labels.min() <= labels.max() < classes:
        raise InputError(f"labels must lie in 0..{classes - 1}, the outputs of the head.")


def _name(network: nn.Module | str) -> str:
    """Name of the architecture, for the bundle."""
    return recorded_name(network) if isinstance(network, str) else CUSTOM


def _encoder(twin: nn.Module | str, classes: int, run: Run) -> nn.Module:
    """The encoder that initialises the twin."""
    return split(initial(twin, classes, run, "twin") if isinstance(twin, str) else twin).encoder
