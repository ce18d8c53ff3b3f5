"""One batch over several processes, as accelerate launches them."""

from collections.abc import Iterable

import torch.distributed.nn
from torch import Tensor


def several() -> bool:
    """Whether this process has a rank among others."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def first() -> bool:
    """Whether this process is alone or the first: the one that writes what all have made."""
    return not several() or torch.distributed.get_rank() == 0


def gather(features: Tensor) -> Tensor:
    """The features of all ranks, with gradients: N ranks then have the negatives of one."""
    if not several():
        return features
    return torch.cat(torch.distributed.nn.functional.all_gather(features))


def agree(tensors: Iterable[Tensor]) -> None:
    """Give all ranks the first one's values, in place."""
    for tensor in tensors if several() else ():
        value = tensor.contiguous()
        torch.distributed.broadcast(value, src=0)
        tensor.copy_(value)
