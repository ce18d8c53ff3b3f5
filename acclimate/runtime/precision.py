"""Precision of the computation: bf16 where the device supports it, else float32."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor

from acclimate.runtime.depthwise import depthwise_gradients

Precision = Literal["auto", "bf16", "fp32"]


def resolve(precision: Precision, device: torch.device) -> Literal["bf16", "fp32"]:
    """Resolve ``"auto"``: bf16 if the device multiplies bf16 natively, else fp32.

    ```python
    resolve("auto", torch.device("cuda"))  # "bf16" on recent GPUs
    ```
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        native = capability.startswith("AVX512") and torch.cpu._is_avx512_bf16_supported()
    return "bf16" if native else "fp32"


@contextmanager
def autocast(
    device: torch.device, precision: Precision, *, depthwise: bool = True
) -> Iterator[None]:
    """Autocast to bf16 or disable autocast, as `resolve` decides; overrides the caller's autocast.

    On a CPU in bf16, the gradients of depthwise convolutions are computed in float32, where their
    kernels are faster.

    ```python
    with autocast(device, "auto"):
        features = encoder(images)
    ```

    Args:
        device: Where the computation runs.
        precision: As for `resolve`.
        depthwise: Whether there may be depthwise convolutions; to look for them takes time.
    """
    half = resolve(precision, device) == "bf16"
    usual = torch.autocast(device.type, torch.bfloat16, enabled=half)
    with usual, depthwise_gradients() if depthwise else nullcontext():
        try:
            yield
        finally:
            # Inside the caller's autocast torch would keep the cached bf16 copies of the weights,
            # although the weights change.
            torch.clear_autocast_cache()


@contextmanager
def usual_defaults() -> Iterator[None]:
    """New tensors are float32 and on the CPU, whatever the caller's defaults are.

    A default type is the whole process's: other threads see it too meanwhile.

    ```python
    with usual_defaults():
        layer = torch.nn.Linear(4, 3)  # float32
    ```
    """
    kind, device = torch.get_default_dtype(), _default_device()
    if kind == torch.float32 and device.type == "cpu":
        yield
        return
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(kind)


def _default_device() -> torch.device:
    try:
        return torch.get_default_device()
    except AttributeError:  # torch 2.6, after it was set back to None
        return torch.device("cpu")


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Disable gradients; leave the caller's inference mode, autocast, default type and device."""
    plain = torch.inference_mode(False), torch.no_grad(), autocast(device, "fp32")
    with usual_defaults(), plain[0], plain[1], plain[2]:
        yield


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32; leave float32 and float64 unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
