"""When half precision is the faster one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["auto", "bf16", "fp32"]


def resolve(precision: Precision, device: torch.device) -> Literal["bf16", "fp32"]:
    """Replace ``"auto"`` with bf16 where the device multiplies it natively, else with float32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        native = capability.startswith("AVX512") and torch.cpu._is_avx512_bf16_supported()
    return "bf16" if native else "fp32"


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """Autocast to bf16, or none, as `resolve` decides; whatever the caller's own autocast is."""
    half = resolve(precision, device) == "bf16"
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        try:
            yield
        finally:
            # Inside a caller's autocast torch would keep the cast weights, although they move.
            torch.clear_autocast_cache()


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Without gradients, and outside the caller's inference mode and autocast."""
    with torch.inference_mode(False), torch.no_grad(), autocast(device, "fp32"):
        yield


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision as float32; float64 as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
