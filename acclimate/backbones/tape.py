"""Record a forward pass, layer by layer and operation by operation, and cut out its end."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_PRODUCTS = (
    *("linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "einsum"),
    *("conv2d", "cosine_similarity", "cdist"),
)
"""Operations that apply weights to features."""
_SWITCH = "parametrizations"
"""The child in which torch keeps how a layer's weights are computed."""


@dataclass(eq=False)
class Step:
    """A layer's call, or an operation outside of layers."""

    target: str | Callable[..., Any]
    """The layer's name, or the operation."""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


class Tape(TorchFunctionMode):
    """Records what happens within it; calls of layers count as one step each.

    Attributes:
        steps: In order.
        outputs: The containers' outputs: the name of a module by the output's identity.
    """

    def __init__(self, network: nn.Module, layer: str | None = None):
        super().__init__()
        self.steps: list[Step] = []
        self.outputs: dict[int, str] = {}
        self._depth = 0
        self._hooks: list[Any] = []
        self._network, self._layer = network, layer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if not self._depth:
            self.steps.append(Step(func, args, kwargs or {}, output))
        return output

    @contextmanager
    def running(self) -> Iterator["Tape"]:
        """Within it, the network's forward pass is recorded."""
        for name, module in self._network.named_modules():
            leaf = name == self._layer or not {n for n, _ in module.named_children()} - {_SWITCH}
            if leaf and name:
                self._hooks.append(module.register_forward_pre_hook(self._enter))
                hook = self._leaving(name)
            else:
                hook = self._noting(name)
            self._hooks.append(module.register_forward_hook(hook, with_kwargs=True))
        try:
            with self:
                yield self
        finally:
            for hook in self._hooks:
                hook.remove()

    def _enter(self, *_: Any) -> None:
        self._depth += 1

    def _leaving(self, name: str) -> Callable[..., None]:
        def leave(_, args, kwargs, output) -> None:
            self._depth -= 1
            if not self._depth:
                self.steps.append(Step(name, args, kwargs, output))

        return leave

    def _noting(self, name: str) -> Callable[..., None]:
        def note(_, args, kwargs, output) -> None:
            if not self._depth and isinstance(output, Tensor) and name:
                self.outputs[id(output)] = name

        return note


@dataclass(frozen=True)
class Source:
    """Where features are found in a forward pass."""

    module: str
    """Name of a module."""
    place: int | str | None
    """Which of its arguments, by number or name; None for its output."""


@dataclass
class Cut:
    """The end of a forward pass: the last layers with weights, and what follows them."""

    steps: list[Step]
    """In order; everything that the logits need beyond the features."""
    features: dict[int, Source]
    """Where each tensor of features is found, by its identity."""
    tensors: dict[int, Tensor]
    """The features by identity, in the order of ``features``."""
    logits: Tensor
    """The network's output."""
    once: set[str]
    """Names of the layers that were called once in the whole pass."""


def cut(network: nn.Module, images: Tensor, layer: str | None) -> Cut | None:
    """Record a forward pass, and cut it before the last layers with weights.

    Args:
        network: In evaluation mode; it returns logits.
        images: Its input.
        layer: A module that counts as a single layer, although it has children.

    Returns:
        The end; None where the logits depend on the images in a way that cannot be followed.
    """
    with torch.no_grad(), Tape(network, layer).running() as tape:
        logits = network(images)
    dependent = _dependent(tape, images)
    walk = _Walk(tape, network, dependent, layer)
    walk.needed.add(id(logits))
    for step in reversed(tape.steps):
        walk.back(step)
    reached = walk.needed | walk.beyond | walk.features.keys()
    if walk.failed or not walk.features or id(images) in reached:
        return None
    once = {name for name, count in walk.calls.items() if count == 1}
    return Cut(walk.steps[::-1], dict(reversed(walk.features.items())), walk.tensors, logits, once)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists, dictionaries and slices."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, slice):
        yield from tensors_in((value.start, value.stop, value.step))


def _dependent(tape: Tape, images: Tensor) -> set[int]:
    """The identities of all tensors that depend on the images."""
    found = {id(images)}
    for step in tape.steps:
        inputs = list(tensors_in((step.args, step.kwargs)))
        if any(id(tensor) in found for tensor in inputs):
            found |= {id(tensor) for tensor in tensors_in(step.output)}
            if _writes(step):
                found.add(id(inputs[0]))
    return found


def _writes(step: Step) -> bool:
    """Whether an operation changes its first argument without returning it."""
    return getattr(step.target, "__name__", "") == "__setitem__"


class _Walk:
    """The walk back from the logits to the features."""

    def __init__(self, tape: Tape, network: nn.Module, dependent: set[int], layer: str | None):
        self.outputs, self.dependent, self.layer = tape.outputs, dependent, layer
        self.modules = dict(network.named_modules())
        self.calls = Counter(step.target for step in tape.steps if isinstance(step.target, str))
        self.steps: list[Step] = []
        self.features: dict[int, Source] = {}
        self.tensors: dict[int, Tensor] = {}
        self.needed: set[int] = set()  # must be computed
        self.beyond: set[int] = set()  # the same, before an operation with weights
        self.failed = False

    def back(self, step: Step) -> None:
        """Add a step, if what it computes is needed."""
        inputs = list(tensors_in((step.args, step.kwargs)))
        made = {id(tensor) for tensor in tensors_in(step.output)}
        if _writes(step):
            made.add(id(inputs[0]))
        before = bool(made & self.beyond)
        if not before and not made & self.needed:
            return
        if before and any(self._is_found(step, tensor) for tensor in tensors_in(step.output)):
            return
        self.steps.append(step)
        follows = [tensor for tensor in inputs if id(tensor) in self.dependent]
        self.needed |= {id(tensor) for tensor in inputs} - {id(tensor) for tensor in follows}
        if before:
            self.beyond |= {id(tensor) for tensor in follows}
        elif isinstance(step.target, str) and self._has_weights(step.target):
            self._take_inputs(step)
        elif _is_product(step, follows, inputs):
            self.beyond |= {id(tensor) for tensor in follows}
        else:
            self.needed |= {id(tensor) for tensor in follows}

    def _is_found(self, step: Step, tensor: Tensor) -> bool:
        """Whether a tensor is a module's output, and so can be taken there."""
        if id(tensor) not in self.beyond:
            return False
        name = step.target if isinstance(step.target, str) else self.outputs.get(id(tensor))
        if name is None:
            return False
        self._add(tensor, Source(name, None))
        return True

    def _take_inputs(self, step: Step) -> None:
        """The inputs of a layer with weights are features."""
        assert isinstance(step.target, str)
        self.failed |= self.calls[step.target] > 1
        for place, value in [*enumerate(step.args), *step.kwargs.items()]:
            if isinstance(value, Tensor) and id(value) in self.dependent:
                self._add(value, Source(step.target, place))
            elif any(id(tensor) in self.dependent for tensor in tensors_in(value)):
                self.failed = True

    def _add(self, tensor: Tensor, source: Source) -> None:
        self.features[id(tensor)] = source
        self.tensors = {id(tensor): tensor, **self.tensors}

    def _has_weights(self, name: str) -> bool:
        if self.layer is not None:
            return name == self.layer
        return any(parameter.ndim > 1 for parameter in self.modules[name].parameters())


def _is_product(step: Step, follows: list[Tensor], inputs: list[Tensor]) -> bool:
    name = getattr(step.target, "__name__", "")
    return name in _PRODUCTS and 0 < len(follows) < len(inputs)
