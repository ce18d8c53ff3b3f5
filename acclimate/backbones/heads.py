"""Heads that are not one linear layer: a 1x1 convolution, several layers, any end of a network."""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_taken: ContextVar[dict[int, Tensor] | None] = ContextVar("taken", default=None)


def is_plain(head: nn.Module) -> bool:
    """Whether a head is an ordinary linear layer, whose weight is a parameter of its own.

    Weights that are computed (``weight_norm``, ``spectral_norm``, any parametrisation) must not be
    changed in place: the next forward pass would compute them anew.

    ```python
    is_plain(nn.Linear(4, 3))  # True
    ```
    """
    return (
        isinstance(head, nn.Linear)
        and type(head).forward is nn.Linear.forward
        and "weight" in head._parameters
        and not head._forward_pre_hooks
        and not head._forward_hooks
    )


class PointwiseHead(nn.Module):
    """A 1x1 convolution as a head on pooled features.

    Args:
        convolution: Shared.
    """

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.convolution = convolution
        self.in_features: int = convolution.in_channels
        self.out_features: int = convolution.out_channels

    def forward(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """Logits of pooled features."""
        return self.convolution(features[:, :, None, None]).flatten(1)


class SumOfHeads(nn.Module):
    """The sum of the logits of several heads, each on its part of the features.

    Args:
        heads: With attributes ``in_features`` and ``out_features``.
    """

    def __init__(self, heads: Sequence[nn.Module]):
        super().__init__()
        self.heads: nn.ModuleList = nn.ModuleList(heads)
        self.sizes: list[int] = [int(head.in_features) for head in heads]  # type: ignore[arg-type]
        self.in_features: int = sum(self.sizes)
        self.out_features: Any = heads[0].out_features

    def votes(self, features: Float[Tensor, "batch dim"]) -> tuple[Tensor, ...]:
        """The logits of each head."""
        parts = features.split(self.sizes, dim=1)
        return tuple(head(part) for head, part in zip(self.heads, parts))

    def forward(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """The sum of all heads' logits."""
        return torch.stack(self.votes(features)).sum(0)


@dataclass(frozen=True)
class Value:
    """Stands for a tensor that is computed, in the arguments of an operation."""

    number: int


@dataclass(frozen=True)
class Weight:
    """Stands for one of the head's tensors, by its attribute's name."""

    name: str


@dataclass(frozen=True)
class BatchSize:
    """Stands for the number of images, or a multiple."""

    times: int


@dataclass(frozen=True)
class Operation:
    """A step of a head."""

    target: int | Callable[..., Any]
    """Number of a layer, or a function."""
    args: Any
    kwargs: Any
    outputs: Any
    """Nested like the function's result, with a `Value` in each tensor's place."""


@dataclass(frozen=True)
class Program:
    """Steps from features to logits; constant, so that copies of a head share it."""

    steps: tuple[Operation, ...]
    result: Value
    shapes: tuple[tuple[int, ...], ...]
    """Shape of each part of the features, without the batch."""
    works_in_place: bool = field(default=False)
    """Whether a step may overwrite the features."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Program":
        return self

    @property
    def dim(self) -> int | None:
        """Features per image, if they are one vector: no part has positions."""
        if any(size != 1 for shape in self.shapes for size in shape[1:]):
            return None
        return sum(shape[0] for shape in self.shapes)


class RecordedHead(nn.Module):
    """The end of a network, from its features to its logits.

    Args:
        program: Steps.
        layers: The network's own layers that the steps call, shared.
        weights: The network's own tensors that the steps use, shared, by name.
        classes: Number of logits.
    """

    def __init__(
        self,
        program: Program,
        layers: Sequence[nn.Module],
        weights: dict[str, Tensor],
        classes: int,
    ):
        super().__init__()
        self.layers: nn.ModuleList = nn.ModuleList(layers)
        for name, tensor in weights.items():
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)
        self.program = program
        self.in_features: int | None = program.dim
        self.out_features = classes

    def forward(self, features: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """Logits of features."""
        if self.program.works_in_place:
            features = features.clone()
        values = dict(enumerate(unpacked(features, self.program.shapes)))
        for step in self.program.steps:
            target = self.layers[step.target] if isinstance(step.target, int) else step.target
            args, kwargs = self._filled((step.args, step.kwargs), values, len(features))
            _store(values, step.outputs, target(*args, **kwargs))
        return values[self.program.result.number]

    def _filled(self, value: Any, values: dict[int, Tensor], batch: int) -> Any:
        def fill(leaf: Any) -> Any:
            if isinstance(leaf, Value):
                return values[leaf.number]
            if isinstance(leaf, Weight):
                return getattr(self, leaf.name)
            return batch * leaf.times if isinstance(leaf, BatchSize) else leaf

        return mapped(value, fill)


class UpToHead(nn.Module):
    """A network's features: what enters its head.

    Args:
        network: Its head's layers are replaced by `StandIn`.
        shapes: Shape of each part of the features, without the batch.
    """

    def __init__(self, network: nn.Module, shapes: tuple[tuple[int, ...], ...]):
        super().__init__()
        self.network = network
        self.shapes = shapes

    def forward(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch ..."]:
        """Features: ``[batch, dim]``, or a map where the head takes one."""
        taken: dict[int, Tensor] = {}
        token = _taken.set(taken)
        try:
            self.network(images)
        finally:
            _taken.reset(token)
        parts = [taken[number] for number in range(len(self.shapes))]
        return packed(parts, self.shapes)


class StandIn(nn.Module):
    """Takes the place of a head's layer: keeps what enters it, and returns zeros.

    Args:
        numbers: Number of each argument that is a part of the features, by place.
        shape: Of the output, without the batch.
    """

    def __init__(self, numbers: dict[int | str, int], shape: tuple[int, ...] | None):
        super().__init__()
        self.numbers: dict[int | str, int] = numbers
        self.shape: tuple[int, ...] | None = shape

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Zeros of the layer's shape."""
        inputs = [*args, *kwargs.values()]
        if (taken := _taken.get()) is not None:
            for place, number in self.numbers.items():
                taken[number] = args[place] if isinstance(place, int) else kwargs[place]
        if self.shape is None:
            return inputs[0]
        return inputs[0].new_zeros(len(inputs[0]), *self.shape)


class Take:
    """A forward hook that keeps a module's output.

    Args:
        number: Of the part of the features.
    """

    def __init__(self, number: int):
        self.number = number

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Keep the output."""
        if (taken := _taken.get()) is not None:
            taken[self.number] = output


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Nested tuples, lists, dictionaries and slices with every other value changed."""
    if isinstance(value, dict):
        return {key: mapped(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [mapped(item, change) for item in value]
    if isinstance(value, tuple):  # torch.Size and named tuples become plain tuples
        return tuple(mapped(item, change) for item in value)
    if isinstance(value, slice):
        return slice(*(mapped(item, change) for item in (value.start, value.stop, value.step)))
    return change(value)


def packed(parts: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> Tensor:
    """Features as one tensor: vectors are concatenated, a single map stays one."""
    has_positions = any(size != 1 for shape in shapes for size in shape[1:])
    if len(parts) == 1 and (has_positions or len(shapes[0]) == 1):
        return parts[0]
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def unpacked(features: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """The parts of features that `packed` put together."""
    if len(shapes) == 1 and features.ndim > 2:
        return [features]
    sizes = [torch.Size(shape).numel() for shape in shapes]
    parts = features.split(sizes, dim=1)
    return [part.reshape(len(features), *shape) for part, shape in zip(parts, shapes)]


def _store(values: dict[int, Tensor], names: Any, result: Any) -> None:
    if isinstance(names, Value):
        values[names.number] = result
    elif isinstance(names, tuple | list):
        for name, item in zip(names, result):
            _store(values, name, item)
    elif isinstance(names, dict):
        for key, name in names.items():
            _store(values, name, result[key])
