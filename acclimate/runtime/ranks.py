"""Distributed training: one batch split over several processes, as accelerate launches them."""

from collections.abc import Iterable

import torch.distributed.nn
from torch import Tensor


def several() -> bool:
    """Whether training is distributed over several processes."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def first() -> bool:
    """Whether this is the only process or rank 0, the one that writes files."""
    return not several() or torch.distributed.get_rank() == 0


def gather(features: Tensor) -> Tensor:
    """Concatenate the features of all ranks, with gradients.

    A contrastive loss over N ranks then has the same negatives as in one process.
    """
    if not several():
        return features
    return torch.cat(torch.distributed.nn.functional.all_gather(features))


def agree(tensors: Iterable[Tensor]) -> None:
    """Copy rank 0's values to all ranks, in place."""
    for tensor in tensors if several() else ():
        value = tensor.contiguous()
        torch.distributed.broadcast(value, src=0)
        tensor.copy_(value)
