"""Constants on a device, copied there once: a copy from the host would wait for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import ParamSpec

import torch
from torch import Tensor

_Given = ParamSpec("_Given")
_holders: list[list[Tensor]] = []


def kept(most: int) -> Callable[[Callable[_Given, Tensor]], Callable[_Given, Tensor]]:
    """Decorator of a function whose tensors are made once for the same arguments, and shared.

    Args:
        most: How many are kept; of more, the one that was not asked for the longest is dropped.
    """

    def decorate(make: Callable[_Given, Tensor]) -> Callable[_Given, Tensor]:
        cached = lru_cache(maxsize=most)(make)

        @wraps(make)
        def given(*args: _Given.args, **kwargs: _Given.kwargs) -> Tensor:
            made = cached(*args, **kwargs)
            for holder in _holders:
                holder.append(made)
            return made

        return given

    return decorate


@contextmanager
def held() -> Iterator[list[Tensor]]:
    """Context in which the constants that are asked for are collected.

    A CUDA graph reads their memory whenever it is replayed, and so must hold them for its life.
    """
    holder: list[Tensor] = []
    _holders.append(holder)
    try:
        yield holder
    finally:
        _holders[:] = [each for each in _holders if each is not holder]


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


@kept(1000)
def _kept(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # whoever asks first, others may differentiate
        return _made(values, device, dtype)
