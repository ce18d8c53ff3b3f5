"""What a stream uses of a guard's budget, and what its batches must have to be learned from."""

import torch

from acclimate.adapt import Adapter
from acclimate.adapt.chosen import model_of
from acclimate.backbones.batch_norm import batch_norms
from acclimate.bundle import Bundle

_DISTINCT = 4  # from fewer different images, the batch's own statistics say nothing


class Distance:
    """How far the weights that steps move are from the source's.

    ```python
    distance = Distance(adapter, bundle)
    distance()  # 0.01 is a hundredth of the source weights' length
    ```

    Args:
        adapter: Its model's weights are looked at each time.
        bundle: The one that the adapter was made from.
    """

    def __init__(self, adapter: Adapter, bundle: Bundle):
        source = dict(model_of(bundle, adapter.name).named_parameters())
        self._pairs = [
            (moving.detach(), source[name].detach().to(moving))
            for name, moving in adapter.model.named_parameters()
            if moving.requires_grad and name in source
        ]

    def __call__(self) -> float:
        """‖θ − θ₀‖ / ‖θ₀‖; 0 where no weights move."""
        if not self._pairs:
            return 0.0
        moving, source = map(list, zip(*self._pairs))
        length = torch.stack(torch._foreach_norm(source)).norm()
        away = torch.stack(torch._foreach_norm(torch._foreach_sub(moving, source))).norm()
        return float(away / length.clamp(min=1e-12))


def fewest_images(adapter: Adapter) -> int:
    """From how few different images an adapter may learn and answer.

    Four, where batch norm uses the statistics of the batch alone.
    """
    normalisation, memory = adapter.settings.normalisation, adapter.settings.memory
    alone = normalisation.uses_batch and getattr(normalisation, "prior", None) == 0
    by_batch = alone and not memory.keeps and bool(batch_norms(adapter.model.encoder))
    return _DISTINCT if by_batch else 1
