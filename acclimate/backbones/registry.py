"""Build classifiers by name: acclimate's own, torchvision's, timm's, or the user's."""

import difflib
import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from acclimate.backbones import clip, code, huggingface
from acclimate.backbones.rebuilt import set_switches, switches_of
from acclimate.backbones.resnet import preact_resnet, resnet, resnet50
from acclimate.backbones.unwrap import LogitsOf
from acclimate.backbones.vit import vit
from acclimate.backbones.weights import find_weights, load_into, number_of_classes, read_weights
from acclimate.errors import InputError, unknown_name

_log = logging.getLogger(__name__)
Constructor = Callable[..., nn.Module]  # takes the number of classes

OWN_NAME = re.compile(r"(resnet|preact)(\d{1,9})(?:-w(\d{1,9}))?(?:-(bn|gn))?")
VIT_NAME = re.compile(r"vit(\d{1,9})-w(\d{1,9})-p(\d{1,9})")
OWN_EXAMPLES = (
    "acclimate:resnet14-w32",
    "acclimate:resnet26",
    "acclimate:resnet26-w16-gn",
    "acclimate:preact26",
    "acclimate:preact26-w32",
    "acclimate:preact26-bn",
    "acclimate:resnet50-cifar",
    "acclimate:resnet50-imagenet",
    "acclimate:vit6-w192-p4",
)
IMAGENET_CLASSES = 1000
_ARCHITECTURES = ("acclimate", "torchvision", "timm")
KINDS = (*_ARCHITECTURES, "hf", "openclip", "hf-clip")
"""What stands before the colon of a name; anything else is code."""


def build(name: str, *, classes: int | None, weights: Path | None = None) -> nn.Module:
    """Build a classifier by its name. Nothing is downloaded.

    ```python
    network = acclimate.build("acclimate:resnet26-w32", classes=10)
    trained = acclimate.build("timm:resnet50", classes=None, weights=Path("last.ckpt"))
    ```

    Args:
        name: ``acclimate:resnet26`` (depth 6n + 2, then optionally ``-w32`` for the width and
            ``-gn`` or ``-bn`` for the norm), ``acclimate:preact26``, ``acclimate:resnet50-cifar``,
            ``acclimate:resnet50-imagenet``, ``acclimate:vit6-w192-p4`` (depth, width and patch
            size), ``torchvision:NAME``, ``timm:NAME``, ``hf:FOLDER`` for an image classifier that
            transformers saved, or ``package.module:function`` or ``file.py:function`` for a
            function that returns the network, which needs `acclimate.backbones.code.trusted_code`.
        classes: Number of outputs of the head. None takes the number from the weights; without
            weights, a torchvision or timm model then has ImageNet's 1000 classes.
        weights: A checkpoint, as `acclimate.backbones.weights.read_weights` takes it:
            .safetensors or of ``torch.save``, with whatever a trainer wrote around the weights.
            Without it the weights are random, or those of the folder or the function. With it,
            torchvision's Inception and GoogLeNet have ``transform_input=True``, as with
            torchvision's own weights; set the attribute to False for weights trained without it.

    Returns:
        The classifier, in training mode. An ``acclimate:`` model is a `Classifier`; `split` turns
        any other into one.

    Raises:
        InputError: the name is unknown; the depth, the width or the number of classes is out of
            range; the weights cannot be read or do not fit; or the name is of code that is not
            allowed to run.
    """
    constructor = _constructor(name, pretrained=weights is None)
    kind = name.partition(":")[0]
    if classes is None and weights is None and kind == "acclimate":
        raise InputError(f"{name} needs a number of classes; give one, or a file with weights.")
    if classes is not None and classes < 2:
        raise InputError(f"a classifier needs at least 2 classes, not {classes}.")
    if weights is None:
        own_number = kind not in _ARCHITECTURES
        return constructor(classes if own_number else classes or IMAGENET_CLASSES)
    checkpoint = read_weights(Path(weights))
    outputs = classes or IMAGENET_CLASSES
    model = constructor(outputs)
    found = find_weights(checkpoint, _inner(model), outputs)
    if classes is None and (trained := number_of_classes(found.tensors, _inner(model), outputs)):
        model = constructor(trained)
    _log.info(load_into(_inner(model), found, checkpoint, classes))
    if switches := switches_of(model):  # torchvision sets them with its own weights too
        set_switches(model, dict.fromkeys(switches, True))
        _log.info(f"{name}: transform_input=True, as with torchvision's own weights")
    return model


def recorded_name(name: str) -> str:
    """The name under which a bundle records an architecture, so that it can be built elsewhere.

    ```python
    recorded_name("hf:my-folder")  # hf:vit {"hidden_size": 192, ...}
    ```
    """
    kind, _, rest = name.partition(":")
    return huggingface.recorded(rest) if kind == "hf" else name


def holds_weights(name: str) -> bool:
    """Whether a name may stand for trained weights, and not for an architecture alone.

    Raises:
        InputError: the name is unknown.
    """
    _constructor(name, pretrained=True)
    return name.partition(":")[0] not in _ARCHITECTURES


def _inner(model: nn.Module) -> nn.Module:
    """The network whose parameters have the names that checkpoints use."""
    return model.model if isinstance(model, LogitsOf) else model


def _constructor(name: str, *, pretrained: bool) -> Constructor:
    source, _, model = name.partition(":")
    if source == "acclimate" and (constructor := _own(model)):
        return constructor
    if source == "torchvision" and (constructor := _torchvision(model)):
        return constructor
    if source == "timm" and (constructor := _timm(model)):
        return constructor
    if source == "hf":
        folder = pretrained and not model.endswith("}")
        function = huggingface.load_pretrained if folder else huggingface.construct
        return partial(function, model)
    if source in ("openclip", "hf-clip"):
        return partial(clip.construct, name)
    if source not in KINDS and code.is_code(name):
        return partial(code.construct, name)
    raise _unknown(name)


def _unknown(name: str) -> InputError:
    import timm
    from torchvision import models

    source, _, model = name.partition(":")
    if source == "timm" and model.replace("_", "-").startswith("hf-hub:"):
        return InputError(
            f"{name} is a model of the Hugging Face Hub, and models are not downloaded; give "
            f"timm:NAME for the architecture and a file with --weights."
        )
    known = [
        *OWN_EXAMPLES,
        *(f"torchvision:{model}" for model in models.list_models(module=models)),
        *(f"timm:{model}" for model in timm.list_models()),
    ]
    # There are over a thousand names: list only the nearest.
    near = [full for full in known if full.endswith(f":{name}")]
    near = near or difflib.get_close_matches(name, known, n=8, cutoff=0)
    return unknown_name("model", name, near)


def _own(name: str) -> Constructor | None:
    if name == "resnet50-cifar":
        return lambda classes: resnet50(classes=classes, stem="cifar")
    if name == "resnet50-imagenet":
        return lambda classes: resnet50(classes=classes, stem="imagenet")
    if name == "resnet50":  # 50 is also 6n + 2: the name could mean a CIFAR ResNet
        raise InputError(
            "acclimate:resnet50 is ambiguous: choose acclimate:resnet50-cifar or "
            "acclimate:resnet50-imagenet (bottlenecks), or acclimate:resnet50-w16 (depth 6n + 2)."
        )
    if match := VIT_NAME.fullmatch(name):
        depth, width, patch = map(int, match.groups())
        return lambda classes: vit(depth, width, patch, classes=classes)
    match = OWN_NAME.fullmatch(name)
    if not match:
        return None
    family, depth, width, norm = match.groups()
    function, usual_norm = (resnet, "bn") if family == "resnet" else (preact_resnet, "gn")
    return lambda classes: function(
        int(depth),
        classes=classes,
        width=int(width or 16),
        norm="batch" if (norm or usual_norm) == "bn" else "group",
    )


# Imported where they are used: importing both takes half of the start-up time.
def _torchvision(name: str) -> Constructor | None:
    from torchvision import models

    if name not in models.list_models(module=models):
        return None
    return lambda classes: models.get_model(name, weights=None, num_classes=classes)


def _timm(name: str) -> Constructor | None:
    import timm

    if name not in {*timm.list_models(), *timm.list_pretrained()}:
        return None
    return lambda classes: timm.create_model(name, pretrained=False, num_classes=classes)
