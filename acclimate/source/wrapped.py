"""A bundle of a classifier as it is: without a twin and without training."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from acclimate.backbones import (
    Classifier,
    check_finite,
    duplicate,
    in_float32,
    recorded_name,
    split,
)
from acclimate.backbones.batch_norm import Trust, batch_norms
from acclimate.backbones.registry import holds_weights
from acclimate.backbones.stated import default_preprocessing, for_channels, preprocessing_of
from acclimate.backbones.trace import input_channels
from acclimate.bundle import CUSTOM, Bundle
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing, check_images
from acclimate.runtime.budget import parse_bytes
from acclimate.runtime.device import find_device
from acclimate.runtime.precision import autocast
from acclimate.source.class_names import class_names
from acclimate.source.figures import in_words
from acclimate.source.held_out import BATCH, FEWEST
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run
from acclimate.source.network import network_of
from acclimate.source.presets import PRESETS
from acclimate.source.room import check_room
from acclimate.source.stages import Work, measure
from acclimate.source.statistics import measure_statistics
from acclimate.source.twin import check_size
from acclimate.version import __version__

_log = logging.getLogger(__name__)
_PROVENANCE = {
    "source": "a trained classifier as it is",
    "acclimate": __version__,
    "torch": torch.__version__,
}


def wrap(
    model: nn.Module | str,
    images: UInt8[Tensor, "n channels h w"] | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    weights: Path | None = None,
    classes: Sequence[str] | None = None,
    head: str | None = None,
    run: Run | None = None,
) -> Bundle:
    """Make a bundle of a trained classifier for methods that need no training of their own.

    Such methods are ``source``, ``bn-adapt`` and ``tent``; ``eata``, ``petta``, ``rmt`` and
    ``foa`` need ``images``. No weight and no statistic changes: logits stay the same bit for bit.

    ```python
    bundle = acclimate.wrap(network, preprocessing=Preprocessing(224))
    adapter = acclimate.Adapter(bundle)
    ```

    Args:
        model: Any network that `acclimate.split` accepts, or a name as for `acclimate.build`. It is
            copied; the bundle has it in float32.
        images: Unlabelled source images, uint8. They show how far ``bn-adapt`` should trust the
            statistics of a batch (a few hundred are enough); None takes a rule of thumb.
        preprocessing: The model's preprocessing; None takes what its library states, see
            `acclimate.backbones.preprocessing_of`, or the images' size and ImageNet's mean and std.
        weights: The checkpoint of a model given by name, as for `acclimate.build`.
        classes: The class name of each output; None takes ImageNet's or those of a transformers
            model where they are known, and otherwise numbers.
        head: The dotted name of the head, if it is not found.
        run: Precision, device and progress of the measurement.

    Returns:
        The bundle. Its default method is ``bn-adapt``, or ``tent`` for a model without batch norm.
        For an unregistered network, load it with ``Bundle.load(path, model=net)``.

    Raises:
        InputError: the model cannot be split; its weights are missing, NaN or infinite; it has no
            preprocessing; or it does not take such images.
    """
    if isinstance(model, str) and weights is None and not holds_weights(model):
        raise InputError(f"{model} has random weights; give the file with the trained ones.")
    network = duplicate(network_of(model, weights))
    classifier = in_float32(split(network.eval(), head=head)).requires_grad_(False).eval()
    check_finite(network, "the model's weights")
    preprocessing = preprocessing or _stated(model, network, images)
    trust, agreement, statistics = _measured(classifier, images, preprocessing, run or Run())
    return Bundle(
        classifier=classifier.cpu(),
        twin=None,
        preprocessing=preprocessing,
        classes=class_names(classes, model, classifier.num_classes),
        method="bn-adapt" if batch_norms(classifier.encoder) else "tent",
        recipe="supervised",
        architecture=recorded_name(model) if isinstance(model, str) else CUSTOM,
        trust=trust,
        statistics=statistics,
        provenance=_PROVENANCE | ({"agreement": agreement} if agreement else {}),
    )


def _measured(
    classifier: Classifier, images: Tensor | None, preprocessing: Preprocessing, run: Run
) -> tuple[dict[str, Trust], dict[str, float], dict[str, Tensor]]:
    check_size(classifier, preprocessing)
    if images is None:
        return {}, {}, {}
    check_images(images, preprocessing.channels)
    source = SourceImages(images, preprocessing)
    device = find_device(run.device)
    classifier.to(device)

    @torch.no_grad()
    def passes(count: int) -> None:
        with autocast(device, run.precision):
            classifier(preprocessing(images[:count].to(device)))

    if len(images) >= FEWEST:
        limit = None if run.memory_limit is None else parse_bytes(run.memory_limit)
        check_room(passes, images=min(BATCH, len(images)), device=device, limit=limit)
    trust, agreement = measure(Work(classifier, source, PRESETS["small"], run))
    _log.info(in_words(trust, agreement, "these images"))
    return trust, agreement, measure_statistics({"classifier": classifier}, source, run)


def _stated(model: nn.Module | str, network: nn.Module, images: Tensor | None) -> Preprocessing:
    """What the model's library states, or follows from the images."""
    if images is not None:
        return default_preprocessing(model, *images.shape[1:])
    stated = preprocessing_of(model)
    if stated is None:
        raise InputError(
            "nothing states the model's preprocessing; give it, Preprocessing(224), or images."
        )
    return for_channels(stated.preprocessing, input_channels(network))
