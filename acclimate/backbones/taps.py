"""Features from the middle of any network, by the names of its modules."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from acclimate.errors import InputError, unknown_name


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

    Raises:
        InputError: no module has one of the names, or the forward pass never calls it.
    """
    modules = dict(encoder.named_modules())
    found: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> None:
        found.setdefault(name, output)
        if len(found) == len(set(names)):
            raise _Enough

    for name in names:
        if name not in modules:
            raise unknown_name("layer", name, modules)
    handles = [
        modules[name].register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name in names
    ]
    try:
        encoder(images)
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    for name in names:
        if name not in found:
            raise InputError(f"the forward pass never calls {name!r}; tap a layer that it calls.")
    return [found[name] for name in names]
