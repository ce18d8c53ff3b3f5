"""Aftermath: weights are averaged over the templates that have had their turn (WATT)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from acclimate.errors import InputError
from acclimate.parts.approach import approach
from acclimate.parts.teacher import Moving


@dataclass(frozen=True)
class AverageOfTurns:
    """After a round of turns, the weights become the mean of those at each turn's end.

    Osowiechi et al. 2024, *WATT: Weight average test-time adaptation of CLIP*. It goes with the
    objective ``template-turns``, whose templates and steps it must have.
    """

    templates: int = 8
    """Turns in a round."""
    steps: int = 2
    """Steps in a turn."""
    parallel: bool = False
    """Whether each turn starts from the weights that the round began with, and from no moments of
    the optimiser; otherwise where the turn before has stopped."""
    released: bool = False
    """Whether, after the first round, the optimiser's moments stay although the weights go back, as
    in the release."""

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        if self.templates < 1 or self.steps < 1:
            raise InputError(
                f"templates and steps must be at least 1, not {self.templates} and {self.steps}."
            )

    def build(self, moving: Moving) -> "TurnsAverage":
        """The average of moving parameters, at the beginning of a round."""
        return TurnsAverage(moving, self)


def give_moments(aftermath: Iterable[Any], optimizer: torch.optim.Optimizer) -> None:
    """Let the parts that begin turns anew know what the optimiser remembers."""
    for part in aftermath:
        if isinstance(part, TurnsAverage):
            part.take_moments(optimizer)


class TurnsAverage:
    """The mean of the moving parameters over the ends of turns.

    Args:
        moving: The parameters, by name; changed in place.
        settings: Turns, steps, and where each begins.

    Attributes:
        copies: Nothing is kept beside the state.
    """

    def __init__(self, moving: Moving, settings: AverageOfTurns):
        self.copies: list[Tensor] = []
        self._settings, self._names = settings, list(moving)
        self._moving = list(moving.values())
        self._sums = [torch.zeros_like(tensor) for tensor in self._moving]
        parallel = settings.parallel
        self._starts = [t.detach().clone() for t in self._moving] if parallel else []
        self._moments: list[Tensor] = []
        self._taken = torch.zeros((), dtype=torch.int64, device=self._moving[0].device)

    def take_moments(self, optimizer: torch.optim.Optimizer) -> None:
        """Learn which tensors of the optimiser a turn begins without."""
        states = optimizer.state.values()
        self._moments = [t for state in states for t in state.values() if isinstance(t, Tensor)]

    @torch.no_grad()
    def __call__(self, taken: Bool[Tensor, ""]) -> None:
        """Count a step that was taken; average at a round's end, and go back at a turn's."""
        settings = self._settings
        whole = settings.templates * settings.steps
        self._taken += taken
        turn = taken & (self._taken % settings.steps == 0)
        last = taken & (self._taken % whole == 0)
        kind = self._moving[0].dtype
        torch._foreach_add_(self._sums, torch._foreach_mul(self._moving, turn.to(kind)))
        means = list(torch._foreach_div(self._sums, settings.templates))
        approach(self._moving, means, last.to(kind))
        torch._foreach_mul_(self._sums, (~last).to(kind))
        if not settings.parallel:
            return
        approach(self._starts, self._moving, last.to(kind))
        approach(self._moving, self._starts, turn.to(kind))
        forget = turn & (self._taken < whole) if settings.released else turn
        if self._moments:
            for tensor in self._moments:
                tensor.mul_(~forget)

    def state(self) -> dict[str, Tensor]:
        """How many steps there were, sums since the round began, and what it began with."""
        sums = {f"sum.{name}": tensor for name, tensor in zip(self._names, self._sums)}
        starts = {f"start.{name}": tensor for name, tensor in zip(self._names, self._starts)}
        return {"taken": self._taken, **sums, **starts}
