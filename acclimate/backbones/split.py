"""Split a classifier into its encoder and its head."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from acclimate.backbones.classifier import Classifier
from acclimate.backbones.heads import PointwiseHead, RecordedHead
from acclimate.backbones.tail import cut_before_head, with_module
from acclimate.backbones.trace import eval_mode, input_channels
from acclimate.backbones.unwrap import LogitsOf, first_output, logits_in, own_input, unwrapped
from acclimate.errors import InputError, unknown_name

# Small sizes first, because they are cheap; a network of fixed size rejects the wrong ones.
SIZES = (32, 28, 64, 96, 128, 224, 299)
Images = Float[Tensor, "3 3 h w"]


def split(model: nn.Module, *, head: str | None = None) -> Classifier:
    """Find the encoder and the head of a classifier.

    ```python
    classifier = acclimate.split(torchvision.models.resnet18(num_classes=10))
    features = classifier.encoder(images)  # [batch, 512]
    ```

    The head is the linear layer that is called last, if the network ends in one; else a 1x1
    convolution on pooled features, or on features that are pooled after it; else the last layers
    with weights and all that follows them, as where two heads are averaged. A forward pass shows
    which; another one checks that ``head(encoder(images))`` equals the model's output.

    The model keeps its head. All layers and tensors are *shared* between the model and the result:
    splitting takes no memory, and training the classifier trains the model. Pass
    ``copy.deepcopy(model)`` to avoid that.

    Args:
        model: Maps normalised images ``[batch, channels, height, width]`` to logits
            ``[batch, classes]``, or to an object or dictionary with ``logits``. A `Classifier` is
            returned as it is; torch.compile and DataParallel are unwrapped.
        head: The dotted name of the head, as in ``model.named_modules()``. None finds it.

    Returns:
        The encoder and the head.

    Raises:
        InputError: the model has no head, or none of this name; its output is no logits of at least
            two classes; or it does not accept images, or cannot be split, with the reason.
    """
    model = unwrapped(model)
    if isinstance(model, Classifier) and head in (None, "head"):
        _check_classes(model.num_classes)
        return model
    if head is not None and head not in (names := dict(model.named_modules())):
        raise unknown_name("layer", head, [n for n, m in names.items() if _is_layer(m)])
    with torch.no_grad():
        classifier = _Run(model, head).classifier()
    classifier.training = model.training
    return classifier


class _Run:
    """One forward pass at the first size that a network accepts, and what it shows.

    Args:
        model: Run in evaluation mode.
        head: Name of the head, if it is given.
    """

    def __init__(self, model: nn.Module, head: str | None):
        self.calls: dict[str, nn.Module] = {}
        self.images, output = self._first(model)
        self.model, self.head = model, head
        if not isinstance(output, Tensor) and isinstance(logits_in(output), Tensor):
            output = logits_in(output)
            self.model = LogitsOf(model)
            self.calls = {f"model.{name}": module for name, module in self.calls.items()}
            self.head = None if head is None else f"model.{head}"
        _check_output(output, len(self.images))
        self.logits = output

    def classifier(self) -> Classifier:
        """The first split whose logits are the network's."""
        if self.head is not None and self.head not in self.calls:
            raise InputError(f"the forward pass never calls {self.head!r}; name its last layer.")
        _check_classes(self.logits.shape[1])
        for name, head in self._candidates():
            classifier = Classifier(
                self._encoder(with_module(self.model, name, _identity(head))), head
            )
            if self._is_equal(classifier) and not self._dropout_after(name):
                return classifier
        found = self._recorded()
        if found is not None:
            classifier = Classifier(self._encoder(found[0]), found[1])
            if self._is_equal(classifier):
                return classifier
        raise self._refusal()

    def _first(self, model: nn.Module) -> tuple[Images, Any]:
        """Images of the first size that the model accepts, and its output for them."""
        hooks = [
            module.register_forward_hook(lambda module, *_, name=name: self._record(name, module))
            for name, module in model.named_modules()
        ]
        reasons: dict[str, str] = {}
        try:
            for images in _images(model):
                self.calls.clear()
                given = images.clone()
                try:
                    with eval_mode(model):
                        output = model(given)
                except Exception as error:
                    height, width = images.shape[-2:]
                    reasons[f"{height}x{width}"] = f"{error}".partition("\n")[0] or repr(error)
                    continue
                self.overwrites = not torch.equal(given, images)
                return images, output
        finally:
            for hook in hooks:
                hook.remove()
        raise _no_images(reasons)

    def _record(self, name: str, module: nn.Module) -> None:
        self.calls.pop(name, None)  # so that the order is that of each layer's last call
        self.calls[name] = module

    def _candidates(self) -> Iterator[tuple[str, nn.Module]]:
        """Layers that may be the whole head, each with the head that it makes."""
        names = [name for name in self.calls if name] if self.head is None else [self.head]
        linear = [name for name in names if isinstance(self.calls[name], nn.Linear)]
        if linear:
            yield linear[-1], self.calls[linear[-1]]
        pointwise = [name for name in names if _is_pointwise(self.calls[name])]
        if pointwise:
            convolution = self.calls[pointwise[-1]]
            assert isinstance(convolution, nn.Conv2d)
            yield pointwise[-1], PointwiseHead(convolution)

    def _recorded(self) -> tuple[nn.Module, RecordedHead] | None:
        found = cut_before_head(self.model, self.images, self.head)
        if found is None or all(len(shape) == 1 for shape in found[1].program.shapes):
            return found
        # A map of one pixel may be pooled, or the image may be small: a larger one shows which.
        try:
            larger = cut_before_head(
                self.model, interpolate(self.images, scale_factor=2.0), self.head
            )
        except Exception:  # a network of fixed size
            return found
        differs = larger is not None and larger[1].program.shapes != found[1].program.shapes
        return larger if differs else found

    def _encoder(self, network: nn.Module) -> nn.Module:
        network.register_forward_hook(first_output)
        if self.overwrites:
            network.register_forward_pre_hook(own_input)
        return network

    def _dropout_after(self, name: str) -> bool:
        """Dropout after the head does nothing in eval mode; in training mode it would be lost."""
        return any(isinstance(self.calls[n], _DROPOUT) for n in self._after(name))

    def _after(self, name: str) -> list[str]:
        names = list(self.calls)
        later = names[names.index(name) + 1 :]
        return [n for n in later if not any(self.calls[n].children())]

    def _is_equal(self, classifier: Classifier) -> bool:
        try:
            with eval_mode(classifier):
                features = classifier.encoder(self.images.clone())
                logits = classifier.head(features)
        except Exception:  # the layers after the head do not accept features
            return False
        dim = getattr(classifier.head, "in_features", None)
        if dim is not None and features.shape != (len(self.images), dim):
            return False
        return _is_close(logits, self.logits)

    def _refusal(self) -> InputError:
        with eval_mode(self.model):
            again = self.model(self.images.clone())
        if not _is_close(again, self.logits):
            return InputError(
                "the network answers the same images differently each time in evaluation mode "
                "(dropout or noise that stays on); make it deterministic."
            )
        name = next((name for name, _ in self._candidates()), None)
        if name is None:
            return InputError(
                "the network has no head that can be found: no layer with weights computes its "
                "logits from features; end it in pooling, nn.Flatten() and nn.Linear(features, "
                "classes)."
            )
        after = self._after(name)
        what = f"{type(self.calls[after[0]]).__name__} {after[0]!r}" if after else "an operation"
        return InputError(
            f"the model does not end in the layer {name!r}: {what} follows it in a way that cannot "
            "be recorded; let the model return that layer's output, or name another head."
        )


_DROPOUT = nn.modules.dropout._DropoutNd


def _images(model: nn.Module) -> Iterator[Images]:
    """Noise in the network's dtype and on its device, in all sizes that it may accept."""
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    generator = torch.Generator("cpu").manual_seed(0)
    for height, width in _sizes(model):
        images = torch.randn(
            (3, input_channels(model), height, width),
            generator=generator,
            device="cpu",
            dtype=torch.float32,
        )
        yield images if like is None else images.to(like)


def _sizes(model: nn.Module) -> Iterator[tuple[int, int]]:
    """The size that the model declares (timm, torchvision, transformers), then common sizes."""
    declared = getattr(model, "default_cfg", None)
    if isinstance(declared, dict) and declared.get("input_size"):
        yield tuple(declared["input_size"][-2:])
    for owner in (model, getattr(model, "config", None)):
        if isinstance(size := getattr(owner, "image_size", None), int):
            yield size, size
    yield from ((size, size) for size in SIZES)


def _no_images(reasons: dict[str, str]) -> InputError:
    size, reason = next(iter(reasons.items()))
    if len(set(reasons.values())) == 1:  # then the size is not what is wrong
        return InputError(
            f"the model fails on images of every size tried ({', '.join(reasons)}): {reason}; pass "
            "one that maps [batch, channels, height, width] alone to [batch, classes]."
        )
    return InputError(
        f"the model accepts no image of any size tried ({', '.join(reasons)}; at {size}: "
        f"{reason}); pass one that maps [batch, channels, height, width] to [batch, classes]."
    )


def _check_output(output: Any, count: int) -> None:
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != count:
        what = type(output).__name__
        if isinstance(output, Tensor):
            what = f"[batch, {', '.join(map(str, output.shape[1:]))}]"
        raise InputError(
            f"the model's output is {what}, not [batch, classes]; wrap it in a module that returns "
            "only the logits."
        )
    values = output.float()
    total, log_total = values.sum(1), values.logsumexp(1)
    ones = torch.ones_like(total)
    is_softmax = bool((values >= 0).all()) and torch.allclose(total, ones, atol=1e-3)
    if output.shape[1] > 1 and (is_softmax or torch.allclose(log_total.exp(), ones, atol=1e-3)):
        raise InputError(
            "the model's output is probabilities, not logits (a softmax follows its head); let the "
            "model return what enters the softmax."
        )


def _check_classes(classes: int) -> None:
    if classes < 2:
        raise InputError(
            f"a classifier needs at least 2 outputs, not {classes}; turn a single logit z of a "
            "binary classifier into the two logits (0, z)."
        )


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d)


def _is_pointwise(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d) or type(module).forward is not nn.Conv2d.forward:
        return False
    ones = (module.kernel_size, module.stride) == ((1, 1), (1, 1))
    return ones and module.groups == 1 and module.padding in ((0, 0), "valid")


def _identity(head: nn.Module) -> nn.Module:
    return nn.Identity().train(head.training)


def _is_close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    rounding = 1e-5 if one.dtype in (torch.float32, torch.float64) else 2e-2
    return torch.allclose(one, other, rtol=rounding, atol=rounding, equal_nan=True)
