"""Depthwise convolutions in bf16 on a CPU: their gradients are faster in float32.

Forward, bf16 is faster than float32 everywhere. But the kernels of the backward pass are slow for
convolutions that are grouped by channel: up to eight times as slow as in float32.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.overrides import TorchFunctionMode

_VALUES = 2**20
"""Values of an input whose gradients are computed at a time: few, for float32 takes memory."""


class DepthwiseGradients(TorchFunctionMode):
    """Within it, depthwise convolutions on a CPU are computed in bf16, their gradients in float32.

    ```python
    with torch.autocast("cpu", torch.bfloat16), DepthwiseGradients():
        loss = network(images).float().mean()
    loss.backward()
    ```
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.conv2d:
            return _convolved(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def depthwise_gradients() -> AbstractContextManager[object]:
    """`DepthwiseGradients` where autocast is in bf16 on a CPU; otherwise nothing.

    Nothing, too, where gradients are disabled: the mode costs some microseconds for each operation.
    """
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return DepthwiseGradients() if half and torch.is_grad_enabled() else nullcontext()


def may_be_depthwise(*modules: nn.Module | None) -> bool:
    """True if a module may have a depthwise convolution, whose weight has one input channel.

    ```python
    may_be_depthwise(torchvision.models.mobilenet_v3_small())  # True
    ```
    """
    weights = (weight for module in modules if module for weight in module.parameters())
    return any(weight.ndim == 4 and weight.shape[1] == 1 for weight in weights)


def _convolved(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    depthwise = 1 < groups == input.shape[-3] and input.ndim == 4
    learns = torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad)
    usual = isinstance(padding, str) or input.is_cuda or is_functorch_wrapped_tensor(input)
    if usual or not (depthwise and learns):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    half = [t if t is None else t.to(torch.bfloat16) for t in (input, weight, bias)]
    return _Depthwise.apply(*half, _pair(stride), _pair(padding), _pair(dilation), groups)


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else [*value] * (2 // len(value))


class _Depthwise(torch.autograd.Function):
    """A convolution whose gradients are computed in float32, of a few images at a time."""

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding, dilation, groups):
        ctx.options = (stride, padding, dilation, False, [0, 0], groups)
        ctx.save_for_backward(x, weight)
        return torch.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        whole = torch.empty_like(x) if of_x else None
        total = torch.zeros_like(weight, dtype=torch.float32) if of_weight else None
        images = max(1, _VALUES * len(x) // x.numel())
        for start in range(0, len(x), images):
            part = slice(start, start + images)
            here = (gradient[part].float(), x[part].float(), weight.float(), None)
            ways, share, _ = torch.ops.aten.convolution_backward(
                *here, *ctx.options, [of_x, of_weight, False]
            )
            if whole is not None:
                whole[part] = ways
            if total is not None:
                total += share
        bias = gradient.sum((0, 2, 3)) if of_bias else None
        weight = None if total is None else total.to(weight.dtype)
        return whole, weight, bias, None, None, None, None
