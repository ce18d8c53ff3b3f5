"""What adapting costs, counted while it is done, not declared."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from acclimate.adapt.learner import Learner


@dataclass(frozen=True)
class Cost:
    """Of one image; see `acclimate.Adapter.cost`."""

    forward_equivalents: float
    """Multiplications, in units of one forward pass of one image through one classifier: a plain
    answer is 1, a backward pass about 2."""
    moving_parameters: int
    """How many numbers the steps change."""
    held_bytes: int
    """What the adapter keeps beside the model: copies to go back to, the optimiser's state, and the
    objective's parts."""
    activation_bytes: int
    """What a step keeps of its forward pass for the backward pass, a whole batch of it."""


def measure_cost(learner: Learner, batch: int) -> Cost:
    """Count one episode of random images; the learner is left as it was.

    Args:
        learner: What is measured.
        batch: Images that come together.
    """
    size = learner.preprocessing.size
    images = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    images, index = images.to(learner.device), torch.arange(batch, device=learner.device)
    state = [tensor.clone() for tensor in (*learner.state, *learner.optimizer_state)]
    refused, kept = learner.refused, _Kept()
    with torch.inference_mode(False), torch.no_grad():
        with FlopCounterMode(display=False) as whole, kept:
            learner.episode(images, index, batch)
        with FlopCounterMode(display=False) as forward:
            votes = learner.model.votes(learner.preprocessing.normalize(images))
        for tensor, value in zip((*learner.state, *learner.optimizer_state), state):
            tensor.copy_(value)
    learner.refused = refused
    single = forward.get_total_flops() / len(votes)
    owned = [*state, *(learner.objective.parameters() if learner.objective else ())]
    return Cost(
        forward_equivalents=whole.get_total_flops() / single,
        moving_parameters=sum(parameter.numel() for parameter in learner.moving),
        held_bytes=sum(tensor.nbytes for tensor in owned),
        activation_bytes=kept.most,
    )


class _Kept(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that autograd saves, each storage once; the most of any step."""

    def __init__(self):
        self.most = 0
        self._storages: dict[int, int] = {}
        super().__init__(self._pack, self._unpack)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._storages[storage.data_ptr()] = storage.nbytes()
        self.most = max(self.most, sum(self._storages.values()))
        return tensor

    def _unpack(self, tensor: Tensor) -> Tensor:
        self._storages.clear()  # the backward pass has begun
        return tensor
