"""A bundle of a classifier as it is: without a twin and without training."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from acclimate.backbones import build, recorded_name, split
from acclimate.backbones.batch_norm import batch_norms
from acclimate.backbones.registry import holds_weights
from acclimate.bundle import CUSTOM, Bundle
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing
from acclimate.source.class_names import class_names
from acclimate.version import __version__


def wrap(
    model: nn.Module | str,
    *,
    preprocessing: Preprocessing,
    weights: Path | None = None,
    classes: Sequence[str] | None = None,
    head: str | None = None,
) -> Bundle:
    """Make a bundle of a trained classifier for methods that need no training of their own.

    These are ``source``, ``ptbn``, ``tent`` and ``tipi``. No weight and no statistic changes: the
    bundle's classifier returns the same logits as the model, bit for bit.

    ```python
    bundle = acclimate.wrap(network, preprocessing=Preprocessing(224))
    adapter = acclimate.Adapter(bundle)
    ```

    Args:
        model: Any network that ends in a linear layer, or a name as for `acclimate.build`. It is
            copied.
        preprocessing: The model's preprocessing.
        weights: The checkpoint of a model given by name, as for `acclimate.build`.
        classes: The class name of each output; None takes ImageNet's or those of a transformers
            model where they are known, and otherwise numbers.
        head: The dotted name of the linear head, if it is not the last linear layer.

    Returns:
        The bundle. Its default method is ``ptbn``, or ``tent`` for a model without batch norm. For
        an unregistered network, load it with ``Bundle.load(path, model=net)``.

    Raises:
        InputError: the model has no linear head, or its weights are missing; or as
            `acclimate.build`.
    """
    classifier = split(_trained(model, weights).eval(), head=head).requires_grad_(False).eval()
    return Bundle(
        classifier=classifier,
        twin=None,
        preprocessing=preprocessing,
        classes=class_names(classes, model, classifier.num_classes),
        method="ptbn" if batch_norms(classifier.encoder) else "tent",
        recipe="supervised",
        architecture=recorded_name(model) if isinstance(model, str) else CUSTOM,
        provenance={
            "source": "a trained classifier as it is",
            "acclimate": __version__,
            "torch": torch.__version__,
        },
    )


def _trained(model: nn.Module | str, weights: Path | None) -> nn.Module:
    """The network with its trained weights; a copy of one that is given."""
    if isinstance(model, str):
        if weights is None and not holds_weights(model):
            raise InputError(f"{model} has random weights; give the file with the trained ones.")
        return build(model, classes=None, weights=weights)
    if weights is not None:
        raise InputError(
            "weights are for a model given by name; load them into a network with "
            "acclimate.backbones.weights.load_weights(network, path)."
        )
    return copy.deepcopy(model)
