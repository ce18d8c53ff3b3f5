"""Constants on a device, copied there once: a copy from the host would wait for it."""

from functools import lru_cache

import torch
from torch import Tensor


def on_device(
    values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """A tensor of these numbers; it must not be changed, for on a GPU all callers share it.

    Only the first call for these numbers waits for a GPU. It cannot be made while a CUDA graph is
    captured: run once what is to be captured.

    ```python
    extent = on_device((32, 32), images.device, torch.int64)
    ```

    Args:
        values: The numbers.
        device: Where they lie.
        dtype: Their type.
    """
    # On the CPU there is nothing to save, and the export of a network must find no cached tensor.
    return (_made if device.type == "cpu" else _kept)(values, device, dtype)


def _made(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)


@lru_cache(maxsize=1000)
def _kept(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # whoever asks first, others may differentiate
        return _made(values, device, dtype)
