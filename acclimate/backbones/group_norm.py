"""Group norm in PyTorch before 2.14, whose backward pass on a CPU may end the process."""

from typing import Any, TypeVar

import torch
from torch import nn

_Module = TypeVar("_Module", bound=nn.Module)


def with_safe_group_norms(module: _Module) -> _Module:
    """The module, whose group norms may be the first layers with a gradient.

    Before 2.14, PyTorch writes the gradient of a group norm's images even if nobody wants it, where
    they lie in channels_last on a CPU: a segmentation fault. It meets networks of which the
    normalisation layers alone move. There such images are copied into the usual layout.

    ```python
    model = with_safe_group_norms(model.requires_grad_(False))
    ```

    Args:
        module: Changed in place.
    """
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14):
        for layer in module.modules():
            if isinstance(layer, nn.GroupNorm):
                layer.register_forward_pre_hook(_in_usual_layout)
    return module


def _in_usual_layout(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The images as they are taken, if no gradient goes on to what is before the layer."""
    images, *others = inputs
    return (images if images.requires_grad else images.contiguous(), *others)
