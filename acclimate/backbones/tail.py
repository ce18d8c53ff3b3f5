"""Split a network before its last layers with weights, whatever follows them."""

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from acclimate.backbones.heads import (
    BatchSize,
    Operation,
    Program,
    RecordedHead,
    StandIn,
    Take,
    UpToHead,
    Value,
    Weight,
    mapped,
)
from acclimate.backbones.tape import Cut, cut
from acclimate.backbones.trace import eval_mode

_IN_PLACE = ("__iadd__", "__isub__", "__imul__", "__itruediv__", "__setitem__")


class _Differs(Exception):  # noqa: N818  not an error
    """Two recordings do not have one structure."""


def cut_before_head(
    network: nn.Module, images: Tensor, layer: str | None = None
) -> tuple[UpToHead, RecordedHead] | None:
    """Encoder and head of a network whose head is not one layer, found by recording it.

    ```python
    encoder, head = cut_before_head(torchvision.models.squeezenet1_1().eval(), images)
    ```

    The head is the last layers with weights, in each branch, and all that follows them. Passes of
    two and of three images show which numbers are the batch size.

    Args:
        network: Not changed. Layers and tensors are shared with the result.
        images: Three images that the network accepts.
        layer: Name of a module that counts as one layer, although it has children.

    Returns:
        Encoder and head; None where the end cannot be followed.
    """
    with eval_mode(network):
        two, three = (cut(network, images[:count].clone(), layer) for count in (2, 3))
    if two is None or three is None:
        return None
    compiler = _Compiler(network)
    try:
        steps = _merged(compiler.steps(two), compiler.steps(three))
        shapes = _merged(_shapes(two, 2), _shapes(three, 3))
    except _Differs:
        return None
    result = compiler.numbers[id(three.logits)]
    program = Program(steps, Value(result), shapes, compiler.works_in_place)
    head = RecordedHead(program, compiler.layers, compiler.weights, three.logits.shape[1])
    encoder = UpToHead(_without_head(network, three), program.shapes)
    encoder.training = network.training
    return encoder, head


def _shapes(found: Cut, batch: int) -> tuple[tuple[int, ...], ...]:
    """The shape of each part of the features, without the batch."""
    if any(not tensor.ndim or len(tensor) != batch for tensor in found.tensors.values()):
        raise _Differs
    shapes = tuple(tuple(tensor.shape[1:]) for tensor in found.tensors.values())
    if not all(shapes):
        raise _Differs
    return shapes


class _Compiler:
    """Turns recorded steps into operations that refer to values, layers and weights."""

    def __init__(self, network: nn.Module):
        self._names = dict(network.named_modules())
        own = [*network.named_parameters(), *network.named_buffers()]
        self._own = {id(tensor): name for name, tensor in own}
        self._places: dict[str, int] = {}
        self._constants = 0
        self.layers: list[nn.Module] = []
        self.weights: dict[str, Tensor] = {}
        self.numbers: dict[int, int] = {}
        self.works_in_place = False

    def steps(self, found: Cut) -> tuple[Operation, ...]:
        """The operations of a recording; a second one replaces the first one's values."""
        self.numbers = {identity: number for number, identity in enumerate(found.tensors)}
        self._constants = 0
        made = []
        for step in found.steps:
            args, kwargs = mapped((step.args, step.kwargs), self._input)
            outputs = mapped(step.output, self._output)
            made.append(Operation(self._target(step.target), args, kwargs, outputs))
        return tuple(made)

    def _target(self, target: Any) -> Any:
        if not isinstance(target, str):
            name = getattr(target, "__name__", "")
            inner = name.endswith("_") and not name.endswith("__")
            self.works_in_place |= inner or name in _IN_PLACE
            return target
        if target not in self._places:
            self._places[target] = len(self.layers)
            layer = self._names[target]
            self.works_in_place |= bool(getattr(layer, "inplace", False))
            self.layers.append(layer)
        return self._places[target]

    def _input(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in self.numbers:
            return Value(self.numbers[id(value)])
        if id(value) in self._own:
            name = "own_" + self._own[id(value)].replace(".", "_")
        else:
            name, self._constants = f"constant_{self._constants}", self._constants + 1
            if name in self.weights and not torch.equal(self.weights[name], value):
                raise _Differs
        self.weights[name] = value
        return Weight(name)

    def _output(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return None
        return Value(self.numbers.setdefault(id(value), len(self.numbers)))


def _merged(two: Any, three: Any) -> Any:
    """What two recordings have in common; numbers that follow the batch become its size.

    Raises:
        _Differs: something else differs.
    """
    if type(two) is not type(three):
        raise _Differs
    if isinstance(two, Operation):
        parts = ("target", "args", "kwargs", "outputs")
        return Operation(*(_merged(getattr(two, part), getattr(three, part)) for part in parts))
    if isinstance(two, tuple | list):
        if len(two) != len(three):
            raise _Differs
        return type(two)(_merged(a, b) for a, b in zip(two, three))
    if isinstance(two, dict):
        if two.keys() != three.keys():
            raise _Differs
        return {key: _merged(two[key], three[key]) for key in two}
    if isinstance(two, slice):
        parts = ("start", "stop", "step")
        return slice(*(_merged(getattr(two, part), getattr(three, part)) for part in parts))
    if type(two) is int and two * 3 == three * 2 and two:
        return BatchSize(two // 2)
    if two is three or two == three:
        return two
    raise _Differs


def _without_head(network: nn.Module, found: Cut) -> nn.Module:
    """The network with the head's layers replaced, and features taken where they are computed."""
    replaced: dict[str, nn.Module] = {}
    for step in found.steps:
        if isinstance(step.target, str) and step.target in found.once:
            replaced[step.target] = StandIn({}, _shape(step.output, len(found.logits))).train(
                network.get_submodule(step.target).training
            )
    for number, source in enumerate(found.features.values()):
        if source.place is None:
            module = copied_shell(network.get_submodule(source.module))
            module.register_forward_hook(Take(number))
            replaced[source.module] = module
        else:
            standing = replaced[source.module]
            assert isinstance(standing, StandIn)
            standing.numbers[source.place] = number
    for name, module in replaced.items():
        network = with_module(network, name, module)
    return network


def _shape(output: Any, batch: int) -> tuple[int, ...] | None:
    if isinstance(output, Tensor) and output.ndim and len(output) == batch:
        return tuple(output.shape[1:])
    return None


def copied_shell(module: nn.Module) -> nn.Module:
    """The module with children and hooks of its own; children, tensors and all else are shared."""
    if isinstance(module, torch.fx.GraphModule):  # its own copy would copy the layers too
        clone = object.__new__(type(module))
        clone.__dict__ = dict(module.__dict__)
    else:
        clone = copy.copy(module)
    # Written to __dict__, because a wrapper may forward the assignment to the wrapped model.
    clone.__dict__["_modules"] = dict(module._modules)
    for name in ("_forward_hooks", "_forward_pre_hooks"):
        clone.__dict__[name] = OrderedDict(module.__dict__[name])
    for name in ("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs"):
        clone.__dict__[name] = OrderedDict(module.__dict__[name])
    return clone


def with_module(network: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """The network with another module in one place; copies only the modules around it."""
    child, _, rest = name.partition(".")
    clone = copied_shell(network)
    below = with_module(network.get_submodule(child), rest, module) if rest else module
    clone.__dict__["_modules"][child] = below
    return clone
