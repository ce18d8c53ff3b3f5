"""What may change while adapting: parameters by name, and batch norm's statistics."""

import re

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acclimate.errors import InputError

_NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """All batch-norm layers that keep running statistics."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def select_parameters(encoder: nn.Module, which: str) -> list[nn.Parameter]:
    """Let only the chosen parameters of an encoder move, and return them.

    Args:
        encoder: Its ``requires_grad`` flags are set.
        which: ``all``, ``norm``, or a regular expression that is searched for in names.

    Raises:
        InputError: the expression is malformed, or nothing matches.
    """
    names = [name for name, _ in encoder.named_parameters()]
    if which == "all":
        chosen = set(names)
    elif which == "norm":
        chosen = {
            f"{prefix}.{name}" if prefix else name
            for prefix, module in encoder.named_modules()
            if isinstance(module, _NORMS)
            for name, _ in module.named_parameters(recurse=False)
        }
    else:
        try:
            chosen = {name for name in names if re.search(which, name)}
        except re.error as error:
            raise InputError(
                f"parameters={which!r} is no valid regular expression ({error}); "
                f"use all, norm or a pattern."
            ) from error
    if not chosen:
        raise InputError(
            f"no parameter of the encoder matches {which!r}; its names look like {names[0]!r}."
        )
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name in chosen)
    return [p for p in encoder.parameters() if p.requires_grad]


class Backup:
    """The values that some tensors have now, to go back to in place.

    Args:
        tensors: What may change.
    """

    def __init__(self, tensors: list[Tensor]):
        self.tensors = tensors
        # One fused copy for each type: batch norm counts its batches in int64.
        self._groups = [
            (group, [tensor.clone() for tensor in group])
            for dtype in {tensor.dtype for tensor in tensors}
            if (group := [tensor for tensor in tensors if tensor.dtype == dtype])
        ]

    @property
    def copies(self) -> list[Tensor]:
        """The kept values."""
        return [value for _, values in self._groups for value in values]

    def restore(self) -> None:
        """Write the kept values back."""
        for tensors, values in self._groups:
            torch._foreach_copy_(tensors, values)

    def keep(self) -> None:
        """Keep the tensors' present values from now on."""
        for tensors, values in self._groups:
            torch._foreach_copy_(values, tensors)
