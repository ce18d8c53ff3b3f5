"""Features from the middle of any network, by the names of its modules."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from acclimate.errors import InputError, unknown_name

_to_the_end = ContextVar("to_the_end", default=False)


@contextmanager
def to_the_end() -> Iterator[None]:
    """Within it `tapped` runs the network to its end, without gradients behind the last tap.

    So that batch norm's running statistics move in all layers, as they do in the releases of
    ClusT3 and its successors, where the whole network is in training mode.
    """
    token = _to_the_end.set(True)
    try:
        yield
    finally:
        _to_the_end.reset(token)


class _Enough(Exception):  # noqa: N818  it is no error
    """All that was asked for has been computed."""


def tapped(encoder: nn.Module, names: Sequence[str], images: Tensor) -> list[Tensor]:
    """The outputs of named modules for normalised images; what comes after the last is not run.

    Args:
        encoder: Any network; gradients flow through it.
        names: Dotted names, as in ``encoder.named_modules()``, in any order.
        images: What the network takes.

    Returns:
        Each module's output, in the order of the names: ``[batch, channels, h, w]`` of a
        convolutional stage, ``[batch, tokens, channels]`` of a transformer's block. Of a module
        that is called more than once it is the first.

    See `to_the_end` for running the rest all the same.

    Raises:
        InputError: no module has one of the names, or the forward pass never calls it.
    """
    modules = dict(encoder.named_modules())
    found: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> None:
        found.setdefault(name, output)
        if len(found) < len(set(names)):
            return
        if not _to_the_end.get():
            raise _Enough
        torch.set_grad_enabled(False)

    for name in names:
        if name not in modules:
            raise unknown_name("layer", name, modules)
    handles = [
        modules[name].register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name in names
    ]
    with_gradients = torch.is_grad_enabled()
    try:
        encoder(images)
    except _Enough:
        pass
    finally:
        torch.set_grad_enabled(with_gradients)
        for handle in handles:
            handle.remove()
    for name in names:
        if name not in found:
            raise InputError(f"the forward pass never calls {name!r}; tap a layer that it calls.")
    return [found[name] for name in names]
