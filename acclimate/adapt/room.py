"""Room for a learner's passes: how they keep within the memory that there is."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acclimate.backbones.fitting import Need, fitted, measured
from acclimate.backbones.recompute import Thrift
from acclimate.errors import InputError
from acclimate.parts.search import Search
from acclimate.runtime.budget import for_passes, show_bytes
from acclimate.runtime.live import most_bytes
from acclimate.runtime.memory import return_freed_memory

if TYPE_CHECKING:
    from acclimate.adapt.learner import Learner

_SURELY = 400
"""A forward pass without gradients takes less than so many times the memory of its images."""
_ENOUGH = 4
"""So many times the fewest images show what each image takes, beside what does not depend on it."""
_TOLERANCE = 0.1
"""Share by which a gradient may differ that was computed in another way, in bf16 by rounding."""
_SPARE = 1.4
"""How much more than planned passes may take before they are refused, where no limit is given."""


class Room:
    """Decides once for each batch size how passes are run; small ones are left as they are.

    Args:
        learner: Whose passes they are.
        limit: The most bytes that the process may hold; see `acclimate.runtime.budget.for_passes`.
    """

    def __init__(self, learner: "Learner", limit: int | None):
        self._learner, self._limit = learner, limit
        self._few = max(2, learner.min_images)
        self._most = 0
        self._steps: dict[int, Thrift] = {}
        self._answers: dict[int, Thrift] = {}

    def measure(self, run: Callable[[], None]) -> None:
        """Run the trial of a step, and note the memory that it takes."""
        self._most = most_bytes(run)

    def together(self, most: int) -> int:
        """How many images fit at a time that have parameters of their own: at least one.

        Args:
            most: The most that are wanted.
        """
        return max(1, min(most, int(self._budget() / max(1, self._most))))

    def step(self, images: int) -> AbstractContextManager[None]:
        """Context of the passes of a step on so many images.

        Raises:
            InputError: however they are run, they do not fit into the memory.
        """
        if images not in self._steps:
            self._steps[images] = self._step(images)
        return self._steps[images].applied()

    def answer(self, images: int, run: Callable[[int], object]) -> AbstractContextManager[None]:
        """Context of a pass that answers for so many images.

        Args:
            images: Number of images.
            run: Such a pass of so many of them.

        Raises:
            InputError: it does not fit into the memory.
        """
        if images not in self._answers:
            self._answers[images] = self._answer(images, run)
        return self._answers[images].applied()

    def _step(self, images: int) -> Thrift:
        budget, few = self._budget(), self._few
        if self._most / few * images <= budget or measured(self._trial, few).of(images) <= budget:
            return Thrift()
        if self._learner.device.type == "cpu":
            return_freed_memory()
            budget = self._budget()
        thrift, need = self._thriftiest(images, budget)
        self._check(need, images, budget, "a step")
        return thrift

    def _thriftiest(self, images: int, budget: float) -> tuple[Thrift, Need]:
        """The cheapest way of a step that fits, or the thriftiest one."""
        encoder = self._learner.model.encoder
        if isinstance(self._learner.optimizer, Search):  # nothing is kept for a backward pass
            return Thrift(), measured(self._trial, self._few)
        few = max(self._few, min(_ENOUGH * self._few, images // 2))
        mixes = bool(self._learner.norms.layers) or not self._same(Thrift((encoder,), images=1))
        return fitted(self._trial, encoder, few=few, images=images, budget=budget, mixes=mixes)

    def _answer(self, images: int, run: Callable[[int], object]) -> Thrift:
        learner = self._learner
        budget = self._budget()
        pixels = math.prod(learner.preprocessing.shape)
        if _SURELY * images * pixels * 4 <= budget:
            return Thrift()
        need = measured(run, 2)
        normalisation = learner.settings.normalisation
        whole = normalisation.uses_batch and not normalisation.runs
        if need.of(images) <= budget:
            return Thrift()
        if whole and learner.norms.layers:
            self._check(need, images, budget, "an answer")
            return Thrift()
        self._check(need, 1, budget, "an answer")
        return Thrift((learner.model.encoder,), images=max(1, need.images_in(budget)))

    def _budget(self) -> float:
        return for_passes(self._limit, self._learner.device)

    def _trial(self, images: int) -> None:
        """The passes of a step on any images, without a trace."""
        self._learner.trial(images)
        for parameter in self._learner.moving.values():
            parameter.grad = None

    def _gradients(self) -> Tensor:
        self._learner.trial(self._few)
        moving = self._learner.moving.values()
        found = [p.grad.flatten().double() for p in moving if p.grad is not None]
        self._learner.optimizer.zero_grad(set_to_none=True)
        return torch.cat(found)

    def _same(self, thrift: Thrift) -> bool:
        """Whether passes give the same gradients that way.

        They do not where images depend on each other, or where an objective taps the network.
        """
        plain = self._gradients()
        try:
            with thrift.applied():
                thrifty = self._gradients()
        except (RuntimeError, ValueError, IndexError):
            return False
        return bool(
            len(plain) == len(thrifty)
            and torch.linalg.vector_norm(plain - thrifty)
            <= _TOLERANCE * torch.linalg.vector_norm(plain)
        )

    def _check(self, need: Need, images: int, budget: float, what: str) -> None:
        if need.of(images) <= budget * (1 if self._limit else _SPARE):
            return
        fit = need.images_in(budget)
        remedy = f"a batch of {fit} images" if fit >= self._few else "smaller images or networks"
        given = "the memory limit" if self._limit else "the free memory"
        raise InputError(
            f"{what} on {images} images needs about {show_bytes(need.of(images))} beside what the "
            f"process holds, and {given} leaves {show_bytes(budget)}; choose {remedy}, or more "
            f"memory."
        )
