"""Each image learned from alone: many at once, each with its own moving parameters."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from acclimate.adapt.learner import Learner
from acclimate.adapt.vmapped import can_vmap, vmapped
from acclimate.runtime.precision import undisturbed

_CROWD = 64
"""The most images at a time on a GPU, each with its own moving parameters and activations."""


def threads(device: torch.device) -> int:
    """How many images are learned from at the same time: one a core.

    One image's kernels are too small to keep several cores busy, and a convolution that is grouped
    by image (vmap) is slower on a CPU than the images one after another.
    """
    return torch.get_num_threads() if device.type == "cpu" else 1


def one_by_one(
    learners: Sequence[Learner],
    images: Float[Tensor, "batch 3 size size"],
    index: Int64[Tensor, " batch"],
    *,
    every: bool = False,
) -> list[Float[Tensor, "batch classes"]]:
    """Learn from each image alone and answer for it.

    Args:
        learners: One takes the images one after another, or on a GPU all of a crowd in the same
            kernels; several, on a CPU, share them, a thread each. They must begin every image from
            the source weights then.
        images: 0..1, not normalised.
        index: Their numbers in the stream.
        every: Answer before the first step and after each one, not only after the last.

    Returns:
        The answers of all images: before and after each step, or the last alone.
    """

    def answer(learner: Learner, number: int) -> list[Tensor]:
        alone = slice(number, number + 1)
        return learner.episode(images[alone], index[alone], 1, every=every)

    if images.is_cuda and can_vmap(learners[0]):
        answers = _crowds(learners[0], images, index, every=every)
    elif len(learners) == 1 or len(images) == 1:
        answers = [answer(learners[0], number) for number in range(len(images))]
    else:
        answers = _shared(learners, answer, len(images))
    return [torch.cat(step) for step in zip(*answers)]


def _crowds(
    learner: Learner, images: Tensor, index: Tensor, *, every: bool, size: int = _CROWD
) -> list[list[Tensor]]:
    """The answers of crowds of images, of half as many where memory is too small."""
    try:
        crowds = zip(images.split(size), index.split(size))
        return [vmapped(learner, *crowd, every=every) for crowd in crowds]
    except torch.OutOfMemoryError:
        if size == 1:
            raise
    return _crowds(learner, images, index, every=every, size=size // 2)


def _shared(
    learners: Sequence[Learner], answer: Callable[[Learner, int], list[Tensor]], count: int
) -> list[list[Tensor]]:
    """All answers, in order; whichever learner is free takes the next image."""
    free: SimpleQueue[Learner] = SimpleQueue()
    for learner in learners:
        free.put(learner)

    def work(number: int) -> list[Tensor]:
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
