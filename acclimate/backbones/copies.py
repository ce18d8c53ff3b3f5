"""Copies of networks, with computed weights and in float32, and whether weights are numbers."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from acclimate.backbones.batch_norm import batch_norms
from acclimate.backbones.group_norm import with_safe_group_norms
from acclimate.errors import InputError

_Module = TypeVar("_Module", bound=nn.Module)
_CACHE = "attention_bias_cache"


class _Forgetful(dict):
    """A dictionary whose entries can be read once."""

    def __getitem__(self, name: object) -> object:
        return self.pop(name)


def duplicate(module: _Module) -> _Module:
    """A deep copy, also of layers that hold what they have computed.

    Layers under the older ``torch.nn.utils.weight_norm`` keep the last computed weight as a plain
    attribute, which ``copy.deepcopy`` refuses where it has a gradient function. timm's LeViT,
    EfficientFormer and others keep attention biases in evaluation mode, which would go on to be
    used after a step has moved the parameters: the copy computes them anew in each pass.

    ```python
    own = duplicate(network)
    ```

    Args:
        module: It is not changed.
    """
    memo: dict[int, object] = {}
    for part in module.modules():
        if isinstance(kept := getattr(part, _CACHE, None), dict):
            memo[id(kept)] = _Forgetful()
        for value in vars(part).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(module, memo)


def forgetful(module: _Module) -> _Module:
    """The module, in which layers compute attention biases anew in each pass (see `duplicate`).

    ```python
    forgetful(network.to(device))  # moving a network makes new caches
    ```

    Args:
        module: Changed in place.
    """
    for part in module.modules():
        if isinstance(getattr(part, _CACHE, None), dict):
            setattr(part, _CACHE, _Forgetful())
    return module


def settled(module: _Module, device: torch.device) -> _Module:
    """The module in evaluation mode, without gradients, in the layout of images.

    ```python
    own = settled(duplicate(network), torch.device("cpu"))
    ```

    Args:
        module: Changed in place, whatever it was before.
        device: Where it is moved to.
    """
    module = forgetful(module.to(device).to(memory_format=torch.channels_last))  # type: ignore
    return with_safe_group_norms(module.requires_grad_(False).eval())


def in_float32(module: _Module) -> _Module:
    """The module itself if its tensors are float32, else a copy in float32.

    Half precision is too coarse for small steps, and images arrive in float32.

    ```python
    network = in_float32(network.half())
    ```

    Args:
        module: It is not changed.
    """
    tensors = [*module.parameters(), *module.buffers()]
    if all(t.dtype == torch.float32 for t in tensors if t.is_floating_point()):
        return module
    return duplicate(module).float()


def check_finite(module: nn.Module, whose: str = "the bundle's weights") -> None:
    """Refuse weights that are not numbers.

    Infinity in a buffer may be meant, as in a mask for attention, but not in the statistics of
    batch norm.

    ```python
    check_finite(network)
    ```

    Args:
        module: It is not changed.
        whose: What its weights are called, in the plural.

    Raises:
        InputError: a parameter, or a statistic of batch norm, is NaN or infinite, or a buffer NaN.
    """
    statistics = {id(b) for norm in batch_norms(module) for b in norm.buffers(recurse=False)}
    parameters = {id(parameter) for parameter in module.parameters()}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        whole = id(tensor) in statistics or id(tensor) in parameters
        if not (tensor.isfinite() if whole else ~tensor.isnan()).all():
            raise InputError(
                f"{whose} hold NaN or infinity in {name}; give weights that are numbers."
            )
