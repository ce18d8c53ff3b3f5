"""Batch norm whose statistics a policy chooses: one module in place of a network's own layers."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acclimate.errors import InputError

_WITH_ACTIVATION = ("BatchNormAct2d", "SyncBatchNormAct")
"""timm's layers that apply dropout and an activation after batch norm."""


class Policy(Protocol):
    """Which statistics normalise, while learning and in the answer."""

    def learn(self, norm: "AdaptiveBatchNorm", x: Tensor) -> Tensor:
        """Normalise the input of a layer in a pass that gradients flow through."""
        ...

    def answer(self, norm: "AdaptiveBatchNorm", x: Tensor) -> Tensor:
        """Normalise the input of a layer in a pass that answers."""
        ...


@dataclass(eq=False)
class Control:
    """The switch that all layers of one model share; setting it changes every layer at once."""

    policy: Policy
    learning: bool = False
    """Whether the passes now are those of a gradient step."""
    apart: bool = False
    """Whether the inputs now leave running statistics as they are."""


class AdaptiveBatchNorm(_BatchNorm):
    """A batch-norm layer with the parameters and statistics of another, normalising by a policy.

    Args:
        norm: The layer that is replaced. Its parameters, buffers and hooks are shared.
        control: The model's switch.

    Raises:
        InputError: a layer that computes batch norm in a way of its own.
    """

    def __init__(self, norm: _BatchNorm, control: Control):
        nn.Module.__init__(self)
        for name in ("num_features", "eps", "momentum", "affine", "track_running_stats"):
            setattr(self, name, getattr(norm, name))
        for name in ("weight", "bias"):
            self.register_parameter(name, getattr(norm, name))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        self.after = _after(norm)
        for name in self.after:
            self.add_module(name, norm.get_submodule(name))
        vars(self).update({n: value for n, value in vars(norm).items() if "hook" in n})
        self.control = control
        self.training = norm.training

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[batch, channels, ...]``."""
        control = self.control
        x = control.policy.learn(self, x) if control.learning else control.policy.answer(self, x)
        for name in self.after:
            x = self.get_submodule(name)(x)
        return x


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """All batch-norm layers that keep running statistics."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def replace_batch_norms(
    module: nn.Module, control: Control, *, but: Collection[nn.Module] = ()
) -> dict[AdaptiveBatchNorm, _BatchNorm]:
    """Put an adaptive layer in place of every batch norm that keeps running statistics.

    Args:
        module: Changed in place; names of parameters and buffers stay.
        control: The switch of all layers.
        but: Submodules that stay as they are.

    Returns:
        The layers that were replaced, by the new ones.

    Raises:
        InputError: a layer that computes batch norm in a way of its own.
    """
    left_out = {id(part) for kept in but for part in kept.modules()}
    norms = [norm for norm in batch_norms(module) if id(norm) not in left_out]
    made = {norm: AdaptiveBatchNorm(norm, control) for norm in norms}
    exchange(module, made)
    return {new: old for old, new in made.items()}


def exchange(module: nn.Module, by: Mapping[Any, nn.Module]) -> None:
    """Put other modules in the place of some, in place and wherever they are used."""
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):  # named_children leaves out repeats
            if child in by:
                setattr(parent, name, by[child])


@contextmanager
def own_statistics(model: nn.Module) -> Iterator[None]:
    """Within it, inputs that are learned from do not enter running statistics."""
    controls = {m.control for m in model.modules() if isinstance(m, AdaptiveBatchNorm)}
    for control in controls:
        control.apart = True
    try:
        yield
    finally:
        for control in controls:
            control.apart = False


def _after(norm: _BatchNorm) -> tuple[str, ...]:
    """The children that a layer applies after batch norm."""
    if any(kind.__name__ in _WITH_ACTIVATION for kind in type(norm).__mro__):
        return ("drop", "act")
    plain = type(norm).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    if not (plain or isinstance(norm, AdaptiveBatchNorm)):
        raise InputError(
            f"the network's {type(norm).__name__} computes batch norm in its own way; replace it "
            f"by torch.nn.BatchNorm2d, or choose a method that keeps the source's statistics."
        )
    return ()
