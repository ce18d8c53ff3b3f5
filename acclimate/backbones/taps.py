"""Intermediate features of a network, by the names of its modules."""

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
    """Context in which `tapped` runs the whole network, without gradients after the last tap.

    Batch norm's running statistics are then updated in all layers, as in the releases of ClusT3
    and its successors, which keep the whole network in training mode.

    ```python
    with to_the_end():
        (features,) = tapped(encoder, ["stages.0"], images)
    ```
    """
    token = _to_the_end.set(True)
    try:
        yield
    finally:
        _to_the_end.reset(token)


class _Complete(Exception):  # noqa: N818  not an error
    """Raised to end the forward pass once all tapped outputs are computed."""


def tapped(encoder: nn.Module, names: Sequence[str], images: Tensor) -> list[Tensor]:
    """The outputs of named modules; layers after the last of them are not run (see `to_the_end`).

    ```python
    first, second = tapped(encoder, ["layer1", "layer2"], images)  # each [batch, channels, h, w]
    ```

    Args:
        encoder: Any network; gradients flow through it.
        names: Dotted names, as in ``encoder.named_modules()``, in any order.
        images: The network's input: normalised images.

    Returns:
        Each module's output, in the order of the names: ``[batch, channels, h, w]`` for a
        convolutional stage, ``[batch, tokens, channels]`` for a transformer block. For a module
        that is called more than once, the output of its first call.

    Raises:
        InputError: no module has one of the names, or the forward pass never calls it.
    """
    modules = dict(encoder.named_modules())
    outputs: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> None:
        outputs.setdefault(name, output)
        if len(outputs) < len(set(names)):
            return
        if not _to_the_end.get():
            raise _Complete
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
    except _Complete:
        pass
    finally:
        torch.set_grad_enabled(with_gradients)
        for handle in handles:
            handle.remove()
    for name in names:
        if name not in outputs:
            raise InputError(f"the forward pass never calls {name!r}; tap a layer that it calls.")
    return [outputs[name] for name in names]
