"""Batch-norm layers of a network: finding and exchanging them, and their common switch."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(eq=False)
class Control:
    """The switch that all adaptive layers of one model share; it changes every layer at once."""

    learning: bool = False
    """Whether the passes now are those of a gradient step."""
    apart: bool = False
    """Whether the inputs now leave running statistics as they are."""


@dataclass(frozen=True)
class Trust:
    """How far the statistics of a batch are trusted in an answer.

    Those of n images have the weight ``limit * n / (n + prior)``, the source's have the rest.
    """

    prior: float
    """Weight of the source's statistics against that of an image: small batches vary more."""
    limit: float = 1.0
    """Largest weight of the batch, 0..1, however many images it has."""


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """All batch-norm layers that keep running statistics."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def exchange(module: nn.Module, by: Mapping[Any, nn.Module]) -> None:
    """Put other modules in the place of some, in place and wherever they are used."""
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):  # named_children leaves out repeats
            if child in by:
                setattr(parent, name, by[child])


@contextmanager
def own_statistics(model: nn.Module) -> Iterator[None]:
    """Within it, inputs that are learned from do not enter running statistics."""
    found = (getattr(module, "control", None) for module in model.modules())
    controls = [control for control in found if isinstance(control, Control)]
    for control in controls:
        control.apart = True
    try:
        yield
    finally:
        for control in controls:
            control.apart = False
