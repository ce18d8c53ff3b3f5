"""The class names of a bundle: given, or those that the model is known to have."""

import logging
from collections.abc import Sequence

from torch import nn

from acclimate.backbones import huggingface
from acclimate.data.class_names import check_distinct, imagenet_names
from acclimate.errors import InputError

_log = logging.getLogger(__name__)


def class_names(
    given: Sequence[str] | None, model: nn.Module | str, outputs: int
) -> tuple[str, ...]:
    """A name for each output of a classifier.

    Args:
        given: The user's names. None takes those of a transformers model's configuration, and
            ImageNet's for a torchvision or timm model of 1000 outputs; otherwise numbers from 0.
        model: The network, or its name for `acclimate.build`.
        outputs: Number of outputs of the head.

    Raises:
        InputError: another number of names than outputs, or a name twice.
    """
    if given:
        names = tuple(given)
        if len(names) != outputs:
            raise InputError(
                f"{len(names)} class names were given for a head with {outputs} outputs; give one "
                "name per output."
            )
        check_distinct(names, "class names")
        return names
    kind, _, name = model.partition(":") if isinstance(model, str) else ("", "", "")
    if kind == "hf" and len(known := huggingface.labels(name) or ()) == outputs:
        _log.info("class names: those of the model's config.json")
        return known
    if kind in ("torchvision", "timm") and outputs == len(imagenet_names()):
        _log.info(f"class names: ImageNet's, because {model} has {outputs} outputs")
        return imagenet_names()
    return tuple(map(str, range(outputs)))
