"""Split a network that ends in a linear layer into its encoder and that layer."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from acclimate.backbones.classifier import Classifier
from acclimate.backbones.trace import eval_mode, input_channels
from acclimate.errors import InputError, unknown_name

# Small sizes first, because they are cheap; a network of fixed size rejects the wrong ones.
SIZES = (32, 28, 64, 96, 128, 224, 299)


def split(model: nn.Module, *, head: str | None = None) -> Classifier:
    """Find the encoder and the linear head of a classifier.

    ```python
    classifier = acclimate.split(torchvision.models.resnet18(num_classes=10))
    features = classifier.encoder(images)  # [batch, 512]
    ```

    One forward pass of two images shows which linear layer is called last, whatever the
    architecture. A second one checks that ``head(encoder(images))`` equals the model's output.

    The model keeps its head. All layers and tensors are *shared* between the model and the result:
    splitting takes no memory, and training the classifier trains the model. Pass
    ``copy.deepcopy(model)`` to avoid that.

    Args:
        model: Maps normalised images ``[batch, channels, height, width]`` to logits
            ``[batch, classes]``. A `Classifier` is returned as it is; torch.compile and
            DataParallel are unwrapped.
        head: The dotted name of the head, as in ``model.named_modules()``. None takes the linear
            layer that is called last.

    Returns:
        The encoder and the head.

    Raises:
        InputError: the model has no linear head, or none of this name; another operation follows
            the head; or the model does not accept images.
    """
    model = _unwrap(model)
    if isinstance(model, Classifier) and head in (None, "head"):
        return model
    if head is not None:
        _check_name(model, head)
    with eval_mode(model):
        images, logits, calls = _trace(model)
    head = head or _last_linear(calls)
    if head not in calls:
        raise InputError(f"the forward pass never calls {head!r}; name its last linear layer.")
    classifier = Classifier(_without(model, head), _linear(model, head))
    classifier.training = model.training
    with eval_mode(classifier), torch.no_grad():
        _check(classifier, head, images, logits, calls)
    return classifier


def _unwrap(model: nn.Module) -> nn.Module:
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError("a scripted model cannot be split; pass the nn.Module it was made from.")
    if isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):  # torch.compile
        return _unwrap(compiled)
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _unwrap(model.module)
    return model


def _check_name(model: nn.Module, head: str) -> None:
    modules = dict(model.named_modules())
    if head not in modules:
        linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
        raise unknown_name("layer", head, linear)
    _linear(model, head)


def _linear(model: nn.Module, head: str) -> nn.Linear:
    module = model.get_submodule(head)
    if not isinstance(module, nn.Linear):
        raise InputError(
            f"the head {head!r} is a {type(module).__name__}, not an nn.Linear; name the linear "
            "layer that computes the logits."
        )
    return module


def _trace(
    model: nn.Module,
) -> tuple[Float[Tensor, "2 3 size size"], Float[Tensor, "2 classes"], dict[str, nn.Module]]:
    """Run the model at the first size it accepts: images, logits, layers in order of their call."""
    calls: dict[str, nn.Module] = {}

    def record(name: str, module: nn.Module) -> None:
        calls.pop(name, None)  # so that the order is that of each layer's last call
        calls[name] = module

    hooks = [
        module.register_forward_hook(lambda module, *_, name=name: record(name, module))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or not any(module.children())
    ]
    try:
        images, logits = _forward(model, calls)
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(
            f"the model's output for 2 images is {shape}, not [2, classes]; wrap it in a module "
            "that returns only the logits."
        )
    return images, logits, calls


@torch.no_grad()
def _forward(model: nn.Module, calls: dict[str, nn.Module]) -> tuple[Tensor, Any]:
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    reasons, channels = {}, input_channels(model)
    for height, width in _sizes(model):
        images = torch.randn(2, channels, height, width, generator=generator).to(like)
        calls.clear()
        try:
            return images, model(images)
        except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
            reasons[f"{height}x{width}"] = str(error).partition("\n")[0]
    size, reason = next(iter(reasons.items()))
    raise InputError(
        f"the model accepts no image of any size tried ({', '.join(reasons)}; at {size}: "
        f"{reason}); pass one that maps [batch, {channels}, height, width] to [batch, classes]."
    )


def _sizes(model: nn.Module) -> Iterator[tuple[int, int]]:
    """The size that the model declares (timm, torchvision's ViT), then common sizes."""
    declared = getattr(model, "default_cfg", None)
    if isinstance(declared, dict) and declared.get("input_size"):
        yield tuple(declared["input_size"][-2:])
    if isinstance(size := getattr(model, "image_size", None), int):
        yield size, size
    yield from ((size, size) for size in SIZES)


def _last_linear(calls: dict[str, nn.Module]) -> str:
    linear = [name for name, module in calls.items() if isinstance(module, nn.Linear)]
    if not linear:
        raise InputError(
            "the model has no linear head: its forward pass calls no nn.Linear; "
            "end it in pooling, nn.Flatten() and nn.Linear(features, classes)."
        )
    return linear[-1]


def _without(model: nn.Module, name: str) -> nn.Module:
    """The model with one layer replaced by nn.Identity; copies only the modules around it."""
    child, _, rest = name.partition(".")
    below = model.get_submodule(child)
    clone = copy.copy(model)
    # Written to __dict__, because a wrapper may forward the assignment to the wrapped model.
    modules = clone.__dict__["_modules"] = dict(model._modules)
    modules[child] = _without(below, rest) if rest else nn.Identity().train(below.training)
    return clone


def _check(
    classifier: Classifier,
    head: str,
    images: Float[Tensor, "2 3 size size"],
    logits: Float[Tensor, "2 classes"],
    calls: dict[str, nn.Module],
) -> None:
    names = list(calls)
    after = names[names.index(head) + 1 :]
    # Dropout after the head does nothing in eval mode; in training mode it would be lost.
    dropout = [name for name in after if isinstance(calls[name], nn.modules.dropout._DropoutNd)]
    if not dropout and _is_equal(classifier, images, logits):
        return
    follower = (dropout or after or [None])[0]
    what = "an operation" if follower is None else f"{type(calls[follower]).__name__} {follower!r}"
    raise InputError(
        f"the model does not end in the linear layer {head!r}: {what} follows it; let the model "
        "return that layer's output (softmax, dropout and scaling belong outside), or name "
        "another head."
    )


def _is_equal(
    classifier: Classifier, images: Float[Tensor, "2 3 size size"], logits: Float[Tensor, "2 c"]
) -> bool:
    try:
        features = classifier.encoder(images)
    except (RuntimeError, ValueError):  # the layers after the head do not accept features
        return False
    if not isinstance(features, Tensor) or features.shape != (len(images), classifier.feature_dim):
        return False
    return torch.allclose(classifier.head(features), logits, rtol=1e-5, atol=1e-5, equal_nan=True)
