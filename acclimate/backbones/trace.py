"""Trace one forward pass of a network: which module called which, and with what output."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from acclimate.errors import InputError
from acclimate.resizing import Side, both


@dataclass
class Call:
    """The call of a module, with the calls of its submodules."""

    name: str
    module: nn.Module
    input: Any
    output: Any = None
    calls: list["Call"] = field(default_factory=list)


@torch.no_grad()
def trace(network: nn.Module, size: Side) -> Call:
    """The calls of one forward pass of two images in eval mode. The network is not changed.

    Raises:
        InputError: the network does not accept images of this size.
    """
    stack: list[Call] = []

    def enter(name: str, module: nn.Module, inputs: tuple[Any, ...], named: Any) -> None:
        call = Call(name, module, next(iter((*inputs, *named.values())), None))
        if stack:
            stack[-1].calls.append(call)
        stack.append(call)

    def leave(output: Any) -> None:
        stack[-1].output = output
        if len(stack) > 1:
            stack.pop()

    hooks = []
    for name, module in network.named_modules():
        before = module.register_forward_pre_hook(
            lambda module, inputs, named, name=name: enter(name, module, inputs, named),
            with_kwargs=True,
        )
        hooks += [before, module.register_forward_hook(lambda _, __, output: leave(output))]
    try:
        with eval_mode(network):
            run(network, two_images(network, size))
    finally:
        for hook in hooks:
            hook.remove()
    return stack[0]


def input_channels(network: nn.Module) -> int:
    """Number of channels of the images: those of the first convolution, or 3 without one.

    A stem may rearrange pixels into channels before it (TResNet): where the number is no usual one,
    what timm's networks state is taken.
    """
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    first = next((convolution.in_channels for convolution in convolutions), 3)
    if first in (1, 3, 4):
        return first
    configurations = (getattr(module, "default_cfg", None) for module in network.modules())
    stated = next((each.get("input_size") for each in configurations if each), None)
    return stated[0] if stated else first


def two_images(network: nn.Module, size: Side) -> Float[Tensor, "2 channels height width"]:
    """Two images of fixed noise, in the network's dtype and on its device."""
    like = next((p for p in network.parameters() if p.is_floating_point()), None)
    generator = torch.Generator("cpu").manual_seed(0)
    shape = (2, input_channels(network), *both(size))
    images = torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)
    return images if like is None else images.to(like)


def run(network: nn.Module, images: Float[Tensor, "batch channels height width"]) -> Any:
    """The network's output.

    Raises:
        InputError: the network does not accept images of this size.
    """
    try:
        return network(images)
    except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
        height, width = images.shape[-2:]
        raise InputError(
            f"the network does not accept images of {height}x{width} pixels "
            f"({str(error).partition(chr(10))[0]}); use the image size that it was built for."
        ) from error


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Context in which every module is in eval mode; afterwards each has its former mode again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
