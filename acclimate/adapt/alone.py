"""Each image learned from alone: many at once, each with its own moving parameters."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from acclimate.adapt.learner import Learner
from acclimate.adapt.loop import adapt
from acclimate.adapt.vmapped import can_vmap, vmapped
from acclimate.methods import AdapterSettings
from acclimate.parts.step import Step, stacked
from acclimate.runtime.precision import undisturbed

Adapted = tuple[list[Tensor], list[Step]]
"""What `acclimate.adapt.loop.adapt` returns."""

_GROUP = 64
"""The most images at a time, each with its own moving parameters and activations."""


def together(settings: AdapterSettings, device: torch.device) -> bool:
    """Whether images share kernels: on a GPU, or where the encoder stays as it is.

    A convolution that is grouped by image (vmap) is slower on a CPU than the images one after
    another. Where nothing in the encoder moves, none is.
    """
    return device.type != "cpu" or getattr(settings.update, "parameters", "") == "none"


def threads(settings: AdapterSettings, device: torch.device) -> int:
    """How many images are learned from at the same time, each by its own kernels: one a core.

    One image's kernels are too small to keep several cores busy.
    """
    return torch.get_num_threads() if settings.alone and not together(settings, device) else 1


def adapt_alone(
    learners: Sequence[Learner],
    images: Float[Tensor, "batch 3 size size"],
    index: Int64[Tensor, " batch"],
    *,
    every: bool = False,
) -> tuple[list[Float[Tensor, "batch classes"]], list[Step]]:
    """As `acclimate.adapt.loop.adapt`, with each image as a batch of its own.

    Args:
        learners: One takes the images one after another, or a group of them in the same kernels;
            several, on a CPU, share them, a thread each. They must begin every image from the
            source weights then.
        images: 0..1, not normalised.
        index: Index of each image in the stream.
        every: Answer before the first step and after each one, not only after the last.

    Returns:
        The logits of all images, before and after each step, or the last alone; and a report of
        each step with a value an image.
    """

    def answer(learner: Learner, number: int) -> Adapted:
        alone = slice(number, number + 1)
        return adapt(learner, images[alone], index[alone], every=every)

    first = learners[0]
    if len(images) > 1 and together(first.settings, images.device) and can_vmap(first):
        size = _GROUP if images.is_cuda else first.room.together(_GROUP)
        return _groups(first, images, index, every=every, size=size)
    if len(learners) == 1 or len(images) == 1:
        adapted = [answer(learners[0], number) for number in range(len(images))]
    else:
        adapted = _shared(learners, answer, len(images))
    logits, steps = zip(*adapted)
    return [torch.cat(each) for each in zip(*logits)], [stacked([*each]) for each in zip(*steps)]


def _groups(learner: Learner, images: Tensor, index: Tensor, *, every: bool, size: int) -> Adapted:
    """Logits and reports of groups of images; halves the groups when memory runs out."""
    try:
        groups = zip(images.split(size), index.split(size))
        logits, steps = zip(*(vmapped(learner, *group, every=every) for group in groups))
    except torch.OutOfMemoryError:
        if size == 1:
            raise
        return _groups(learner, images, index, every=every, size=size // 2)
    return [torch.cat(each) for each in zip(*logits)], [joined([*each]) for each in zip(*steps)]


def joined(steps: list[Step]) -> Step:
    """The reports of one step of several groups."""
    return Step(*(torch.cat([getattr(s, name) for s in steps]) for name in vars(steps[0])))


def _shared(
    learners: Sequence[Learner], answer: Callable[[Learner, int], Adapted], count: int
) -> list[Adapted]:
    """All answers, in order; whichever learner is free takes the next image."""
    free: SimpleQueue[Learner] = SimpleQueue()
    for learner in learners:
        free.put(learner)

    def work(number: int) -> Adapted:
        learner = free.get()
        try:
            with undisturbed(learner.device):
                return answer(learner, number)
        finally:
            free.put(learner)

    kept = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(
            len(learners), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            return list(pool.map(work, range(count)))
    finally:
        torch.set_num_threads(kept)  # the number that new threads begin with is the process's
        first, *others = learners
        for learner in others:  # one state holds what all have counted
            first.counts += learner.counts
            learner.counts.zero_()
