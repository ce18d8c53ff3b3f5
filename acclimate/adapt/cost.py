"""The cost of adapting, counted during a step and an answer, not declared."""

import weakref
from collections import Counter
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import (
    FlopCounterMode,
    conv_flop_count,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from acclimate.adapt.learner import Learner
from acclimate.adapt.loop import predict, take_step
from acclimate.backbones import Classifier
from acclimate.parts.answer import Prediction
from acclimate.parts.banks import Bank
from acclimate.parts.memory import GatheredImages


@dataclass(frozen=True)
class Cost:
    """The cost of one image; see `acclimate.Adapter.cost`."""

    forward_equivalents: float
    """Multiplications, in units of one forward pass of one image through the classifier: a plain
    prediction is 1, a backward pass about 2."""
    moving_parameters: int
    """Number of parameters that the steps change."""
    held_bytes: int
    """Memory of the adapter beside the model: the values to reset to, the optimiser's state, the
    objective's modules; with images learned from alone, also a model for each further thread."""
    activation_bytes: int
    """Memory of the activations of a whole batch that a step keeps for the backward pass, without
    the model's weights."""
    state_bytes: int
    """Size of the adapter's state: what a snapshot, a file or a further stream takes."""


def measure_cost(learner: Learner, batch: int) -> Cost:
    """Count one step and one answer on random images; the learner is left as it was.

    Args:
        learner: The learner that is measured.
        batch: Number of images in a batch. If the memory completes it with earlier images, their
            cost is counted for the batch. Of steps on a full bank, or on images that were gathered,
            the batch's share is counted.
    """
    height, width, channels = learner.preprocessing.shape
    memory = learner.memory
    context, share = max(batch, learner.settings.memory.images if learner.objective else 1), 1.0
    if isinstance(memory, Bank):
        context, share = memory.capacity, batch / memory.every
    if isinstance(memory, GatheredImages):
        share = min(1.0, batch / memory.least)
    images = torch.rand(
        max(batch, context), channels, height, width, generator=torch.Generator().manual_seed(0)
    )
    images, index = images.to(learner.device), torch.arange(len(images), device=learner.device)
    learned = images[:context], index[:context], 0
    if learner.objective:
        learner.room.step(context)  # its trials are no part of the cost
    before, saved = learner.state.copy(), _Saved(learner)
    normalized = learner.preprocessing.normalize(images)
    apart = isinstance(memory, Bank | GatheredImages)
    run = partial(predict, learner, images[-batch:] if apart else images, batch)
    given = learner.gives_logits and learner.settings.steps > 0 and not isinstance(memory, Bank)
    with _flops() as step:
        if learner.objective:
            take_step(learner, *learned)
    with _flops() as answer:
        early = learner.answer.early(run, given)
        learner.answer.late(run, early or (Prediction(images) if given else None))
    with _flops() as forward:
        votes = _as_it_was(learner.model).votes(normalized)
    with saved:  # apart, because the counter of multiplications keeps graphs alive
        if learner.objective:
            take_step(learner, *learned)
    learner.state.load(before)
    single = forward.get_total_flops() / len(votes) / len(images)
    whole = share * learner.settings.steps * step.get_total_flops() + answer.get_total_flops()
    return Cost(
        forward_equivalents=whole / single / batch,
        moving_parameters=sum(parameter.numel() for parameter in learner.moving.values()),
        held_bytes=sum(tensor.nbytes for tensor in learner.held),
        activation_bytes=saved.most,
        state_bytes=sum(tensor.nbytes for tensor in learner.state.tensors.values()),
    )


def _as_it_was(model: Classifier) -> Classifier:
    """The classifier without what an objective has put around its head."""
    return Classifier(model.encoder, getattr(model.head, "frozen", model.head))


def _flops() -> FlopCounterMode:
    """Torch's counter, completed by attention on a CPU, and right for grouped convolutions."""

    def forward(query, key, value, *_, out_shape=None, **__) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(gradient, query, key, value, *_, out_shape=None, **__) -> int:
        return sdpa_backward_flop_count(gradient, query, key, value)

    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    derivative = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    known = {attention: forward, derivative: backward}
    known[torch.ops.aten.convolution_backward] = _convolution_backward
    return FlopCounterMode(display=False, custom_mapping=known)


def _convolution_backward(gradient, images, weight, *settings, **_) -> int:
    """Operations of a convolution's backward pass, from shapes, whatever its groups.

    Each gradient, that of the input and that of the weight, takes as many as the forward pass.
    Torch counts the weight's as if each group saw the channels of all groups, which for a depthwise
    convolution is as many times too much as it has channels.
    """
    *_, transposed, _, _, wanted = settings  # as aten.convolution_backward takes them
    return conv_flop_count(images, weight, gradient, transposed) * sum(wanted[:2])


class _Packed:
    """A saved tensor; it lives as long as autograd keeps it."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


class _Saved(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that autograd keeps, each storage once.

    Attributes:
        most: The largest number at a time.
    """

    def __init__(self, learner: Learner):
        self.most = 0
        self._now = 0
        self._users: Counter[int] = Counter()
        modules = filter(None, (learner.model, learner.objective))
        self._weights = {
            tensor.untyped_storage().data_ptr()
            for module in modules
            for tensor in (*module.parameters(), *module.buffers())
        }
        super().__init__(self._pack, lambda packed: packed.tensor)

    def _pack(self, tensor: Tensor) -> _Packed:
        packed = _Packed(tensor.detach())
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if address not in self._weights:
            weakref.finalize(packed, self._release, address, size)
            self._now += 0 if self._users[address] else size
            self._users[address] += 1
            self.most = max(self.most, self._now)
        return packed

    def _release(self, address: int, size: int) -> None:
        self._users[address] -= 1
        self._now -= 0 if self._users[address] else size
