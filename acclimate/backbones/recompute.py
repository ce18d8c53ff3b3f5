"""Passes with gradients in little memory: activations are computed anew, not kept.

Chen et al. 2016, *Training deep nets with sublinear memory cost*.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.checkpoint import checkpoint

from acclimate.runtime.depthwise import depthwise_gradients
from acclimate.runtime.live import LiveBytes


@dataclass(frozen=True)
class Thrift:
    """Which modules keep only their inputs for the backward pass."""

    modules: tuple[nn.Module, ...] = ()
    """The modules; none keeps all activations."""
    images: int | None = None
    """How many images the modules take at a time; None takes all that come."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it, passes are thrifty; the gradients are the same up to rounding.

        Running statistics and other buffers are written by the first of the two passes alone.

        ```python
        with Thrift((network.layer1, network.layer2)).applied():
            network(images).sum().backward()
        ```
        """
        before = [vars(module).get("forward") for module in self.modules]
        for module in self.modules:
            module.forward = partial(_forward, module.forward, module, self.images)
        try:
            yield
        finally:
            for module, forward in zip(self.modules, before):
                if forward is None:
                    del module.forward
                else:
                    module.forward = forward


def _forward(
    forward: Callable[..., Any], module: nn.Module, images: int | None, *given: Any, **named: Any
) -> Any:
    def run(*given: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*given, **named)
        contexts = partial(_contexts, module)
        return checkpoint(forward, *given, use_reentrant=False, context_fn=contexts, **named)

    if images is None or len(given[0]) <= images:
        return run(*given)
    return torch.cat([run(part) for part in given[0].split(images)])


def _contexts(module: nn.Module) -> tuple[Any, Any]:
    return nullcontext(), _again(module)


@contextmanager
def _again(module: nn.Module) -> Iterator[None]:
    """Around the second pass of a module: it leaves no trace."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    with depthwise_gradients():
        try:
            yield
        finally:
            for buffer, value in before:
                buffer.data.copy_(value)  # unseen by autograd, which counts changes


def partitions(network: nn.Module, run: Callable[[], Any]) -> list[tuple[nn.Module, ...]]:
    """Ways to divide a network into modules, from coarse to fine.

    The finer the modules, the less each needs while it is computed anew, and the more inputs are
    kept.

    Args:
        network: Any network.
        run: A pass with gradients that calls it.
    """
    kept, whole = _kept(network, run)
    found = [_divided(network, kept, whole / 2**power) for power in range(1, 7)]
    return [way for number, way in enumerate(found) if way and way not in found[:number]]


def _kept(network: nn.Module, run: Callable[[], Any]) -> tuple[dict[nn.Module, int], int]:
    """Bytes that each module leaves behind for the backward pass, and the most of the whole pass.

    Modules that change their input in place are left out, for it cannot be used again.
    """
    kept: dict[nn.Module, int] = {}
    begun: list[tuple[int, list[tuple[Tensor, int]]]] = []
    with LiveBytes() as live:

        def enter(module: nn.Module, given: Sequence[Any]) -> None:
            versions = [(x, x._version) for x in given if isinstance(x, Tensor)]
            begun.append((live.now, versions))

        def leave(module: nn.Module, given: Any, made: Any) -> None:
            before, versions = begun.pop()
            if all(x._version == version for x, version in versions):
                kept[module] = kept.get(module, 0) + live.now - before

        hooks = [module.register_forward_pre_hook(enter) for module in network.modules()]
        hooks += [module.register_forward_hook(leave) for module in network.modules()]
        try:
            run()
        finally:
            for hook in hooks:
                hook.remove()
    return kept, live.most


def _divided(module: nn.Module, kept: dict[nn.Module, int], most: float) -> tuple[nn.Module, ...]:
    """The outermost modules that leave at most so much behind, and have several layers."""
    if sum(isinstance(part, _ConvNd | nn.Linear) for part in module.modules()) < 2:
        return ()
    if module in kept and kept[module] <= most:
        return (module,) if kept[module] > 0 else ()
    return tuple(found for child in module.children() for found in _divided(child, kept, most))
