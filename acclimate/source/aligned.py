"""Cross-Task Alignment of an existing classifier.

Barbeau et al., *CTA: Cross-Task Alignment for Better Test Time Training*.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from acclimate.backbones import (
    Classifier,
    check_finite,
    duplicate,
    in_float32,
    recorded_name,
    split,
)
from acclimate.backbones.batch_norm import batch_norms
from acclimate.backbones.stated import default_preprocessing
from acclimate.backbones.trace import input_channels
from acclimate.bundle import CUSTOM, Bundle
from acclimate.errors import InputError
from acclimate.methods import RECIPES, Recipe
from acclimate.preprocessing import Preprocessing, check_images
from acclimate.runtime.precision import usual_defaults
from acclimate.source.class_names import class_names
from acclimate.source.figures import in_words
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run, Training
from acclimate.source.network import network_of
from acclimate.source.presets import PRESETS, SourceSettings, check_settings
from acclimate.source.stages import Work
from acclimate.source.train import begin, initial, make

FACTORS = (1.0, 0.1, 0.01)
"""Factors of the learning rates that are tried, until the alignment is of use."""
TRUSTED = 0.35
"""Half the least weight that statistics have in ``acclimate``: a twin whose measured limit is lower
gets ``cta``. Reasoned, not measured."""
_log = logging.getLogger(__name__)
_RECIPE = replace(RECIPES["cta"], stages=("contrastive", "align"))


@usual_defaults()
def align(
    model: nn.Module | str | Bundle,
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
    acclimate.align(model, images).save("bundle")
    ```

    Args:
        model: Any network that `acclimate.split` accepts, a name as for `acclimate.build`, or a
            bundle: its classifier, class names and preprocessing. A network is put into evaluation
            mode and otherwise not changed; the result has it in float32.
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
    architecture = _name(model)
    if isinstance(model, Bundle):
        classes, preprocessing = classes or model.classes, preprocessing or model.preprocessing
        model = model.classifier
    network = network_of(model, weights)
    check_images(images, preprocessing.channels if preprocessing else input_channels(network))
    stated = default_preprocessing(model, *images.shape[1:])
    classifier = in_float32(duplicate(split(network.eval(), head=head)))
    check_finite(network, "the model's weights")
    names = class_names(classes, model, classifier.num_classes)
    run, twin = run or Run(), _start_of_twin(model, twin, settings)
    start = None if twin is None else _encoder(twin, len(names), run)
    source = SourceImages(images, preprocessing or stated, labels)
    bundle = _tried(_RECIPE, classifier, source, settings, run, start, names)
    own = architecture if twin is None else _name(twin)
    return replace(bundle, architecture=architecture, twin_architecture=own)


def _tried(
    recipe: Recipe,
    classifier: Classifier,
    source: SourceImages,
    settings: SourceSettings,
    run: Run,
    start: nn.Module | None,
    names: tuple[str, ...],
) -> Bundle:
    """The bundle, with the largest learning rates at which the alignment is of use.

    The twin of a network that was trained elsewhere may need smaller rates than the preset's. Where
    no share of the alignment agrees better with the classifier on held-out images than the
    classifier itself, the twin is trained anew with a tenth of the rates, and a hundredth. A share
    that the settings give is taken as it is.
    """
    _check_labels(source.labels, len(names))
    given = settings.interpolation is not None
    first: Work | None = None
    for factor in FACTORS:
        stages = {n: _slower(getattr(settings, n), factor) for n in recipe.stages}
        folder = run.folder if factor == 1 or run.folder is None else run.folder / f"{factor:g}"
        own = replace(run, folder=folder)
        work = begin(recipe, classifier, source, replace(settings, **stages), own, start=start)
        work.classifier.requires_grad_(False).eval()
        if first is not None:  # what was measured on the classifier
            work.held_out, work.trust = first.held_out, first.trust
        bundle = make(work, recipe, names, origin=f"{len(source.images)} unlabelled images")
        first = first or work
        if given or work.kept != 0:
            break
    figures = bundle.provenance.get("agreement", {})
    _log.info(in_words(bundle.trust, figures, work.measured_on))
    if work.kept == 0 and not given:
        method = "bn-adapt" if batch_norms(classifier.encoder) else "source"
        _log.warning(
            f"warning: the aligned twin answers no better than the classifier for "
            f"{work.measured_on}, so it is left a copy of it, and {method} becomes the bundle's "
            f"method; give more images, or other settings"
        )
        return replace(bundle, method=method)
    if figures and figures["twin, shifted"] < figures["classifier, shifted"]:
        _log.warning(
            f"warning: the aligned twin answers worse than the classifier for {work.measured_on}, "
            f"corrupted; use bn-adapt, or, if given, leave out --interpolation, --twin or "
            f"--preset paper"
        )
    return replace(bundle, method=_usual_method(bundle))


def _usual_method(bundle: Bundle) -> str:
    """Our own where statistics of batches were found to be of use, else CTA."""
    trust = bundle.trust.get("twin")
    return "acclimate" if trust is not None and trust.limit >= TRUSTED else "cta"


def _slower(training: Training, factor: float) -> Training:
    final = min(training.final_learning_rate, training.learning_rate * factor)
    rate = training.learning_rate * factor
    return replace(training, learning_rate=rate, final_learning_rate=final)


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


def _name(network: nn.Module | str | Bundle) -> str:
    """Name of the architecture, for the bundle."""
    if isinstance(network, Bundle):
        return network.architecture if network.form == "plain" else CUSTOM
    return recorded_name(network) if isinstance(network, str) else CUSTOM


def _encoder(twin: nn.Module | str, classes: int, run: Run) -> nn.Module:
    """The encoder that initialises the twin."""
    network = initial(twin, classes, run, "twin") if isinstance(twin, str) else twin
    encoder = split(network).encoder
    check_finite(network, "the twin's weights")
    return encoder
