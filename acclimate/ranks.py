"""One batch over several processes, as accelerate launches them."""

import torch.distributed.nn
from torch import Tensor


def gather(features: Tensor) -> Tensor:
    """The features of all ranks, with gradients: N ranks then have the negatives of one."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return features
    return torch.cat(torch.distributed.nn.functional.all_gather(features))
