"""Tensors that go a part of the way to others, in place."""

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def approach(tensors: list[Tensor], targets: list[Tensor], rate: Float[Tensor, ""]) -> None:
    """Move tensors a part of the way to targets, in place; the rate stays on its device.

    ```python
    approach([weights], [source], torch.tensor(0.01))  # 1 % of the way
    ```

    Args:
        tensors: Moved.
        targets: One for each of them.
        rate: Share of the way.
    """
    ways = torch._foreach_sub(targets, tensors)
    torch._foreach_mul_(ways, rate)
    torch._foreach_add_(tensors, ways)
