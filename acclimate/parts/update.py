"""Update: the optimiser of the steps, and which parameters they move.

A search without gradients is in `acclimate.parts.search`.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acclimate.errors import InputError
from acclimate.parts.checks import not_negative, share
from acclimate.parts.search import CovarianceAdaptation

_NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015)."""

    learning_rate: float = 0.0
    """Learning rate of each step."""
    parameters: str = "all"
    """What moves in the encoder, as far as the objective's gradient reaches: ``all``, ``norm``
    (normalisation layers' scales and shifts), ``none``, or a regular expression that is searched
    for in the parameters' names."""
    auxiliary: bool = False
    """Whether the objective's own parameters (a projector, a branch) move too."""
    head: bool = False
    """Whether the classifier's head moves too."""

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        not_negative("learning_rate", self.learning_rate)

    def build(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The optimiser of some parameters."""
        parameters = list(parameters)
        recorded = parameters[0].is_cuda  # as a CUDA graph
        return torch.optim.Adam(parameters, self.learning_rate, fused=True, capturable=recorded)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter 2019)."""

    weight_decay: float = 0.01
    """Share of the learning rate by which weights shrink in each step; torch's default."""

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        super().check()
        not_negative("weight_decay", self.weight_decay)

    def build(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The optimiser of some parameters."""
        parameters = list(parameters)
        return torch.optim.AdamW(
            parameters,
            self.learning_rate,
            weight_decay=self.weight_decay,
            fused=True,
            capturable=parameters[0].is_cuda,
        )


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent."""

    learning_rate: float = 0.0
    """Learning rate of each step."""
    momentum: float = 0.0
    """Share of the last step's direction that is kept."""
    parameters: str = "all"
    """What moves in the encoder; see `Adam`."""
    auxiliary: bool = False
    """Whether the objective's own parameters move too."""
    head: bool = False
    """Whether the classifier's head moves too."""

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        not_negative("learning_rate", self.learning_rate)
        share("momentum", self.momentum)

    def build(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The optimiser of some parameters."""
        return torch.optim.SGD(parameters, self.learning_rate, momentum=self.momentum, fused=True)


@dataclass(frozen=True)
class SAM(SGD):
    """SGD by the gradient at the worst point nearby, SAR's optimiser.

    Foret et al. 2021, *Sharpness-aware minimization for efficiently improving generalization*.
    """

    radius: float = 0.05
    """ρ, the distance to that point."""

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        super().check()
        not_negative("radius", self.radius)

    def build(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The optimiser of some parameters."""
        return SharpnessAware(
            parameters, self.learning_rate, momentum=self.momentum, radius=self.radius
        )


Update = Adam | AdamW | SGD | SAM | CovarianceAdaptation


class SharpnessAware(torch.optim.SGD):
    """θ ← θ − η ∇L(θ + ρ g/‖g‖), g = ∇L(θ), with SGD's momentum (Foret et al. 2021, Eq. 2).

    Args:
        parameters: θ.
        learning_rate: η.
        momentum: SGD's.
        radius: ρ.
    """

    def __init__(
        self, parameters: Iterable[Tensor], learning_rate: float, *, momentum: float, radius: float
    ):
        super().__init__(parameters, learning_rate, momentum=momentum, fused=True)
        self.radius = radius

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        """Take a step; the closure computes gradients anew, and is called at both points."""
        with torch.enable_grad():
            closure()
        moving = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        before = [p.detach().clone() for p in moving]
        gradients = [p.grad for p in moving]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        # Of a gradient that is not finite no use is made: the step will be refused.
        length = torch.where(norm.isfinite(), self.radius / (norm + 1e-12), 0.0)
        shifts = [torch.nan_to_num(gradient) * length for gradient in gradients]
        torch._foreach_add_(moving, shifts)
        try:
            with torch.enable_grad():
                loss = closure()
        finally:
            torch._foreach_copy_(moving, before)
        super().step()
        return loss


def allocate_state(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> None:
    """Let an optimiser make its state, all zeros: states have one form then.

    Args:
        optimizer: Takes a step on gradients of 0.
        parameters: All that it moves; their values stay, their gradients are dropped.
    """
    before = [parameter.detach().clone() for parameter in parameters]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(lambda: torch.zeros(()))  # type: ignore[arg-type]
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        torch._foreach_copy_(list(parameters), before)
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                value.zero_()


def select_parameters(encoder: nn.Module, which: str) -> dict[str, nn.Parameter]:
    """Let only the chosen parameters of an encoder move, and return them by name.

    Args:
        encoder: Its ``requires_grad`` flags are set.
        which: ``all``, ``norm``, ``none``, or a regular expression that is searched for in names.

    Raises:
        InputError: the expression is malformed, or nothing matches.
    """
    names = [name for name, _ in encoder.named_parameters()]
    if which == "all":
        chosen = set(names)
    elif which == "norm":
        chosen = set(norm_parameters(encoder))
    elif which == "none":
        chosen = set()
    else:
        try:
            chosen = {name for name in names if re.search(which, name)}
        except re.error as error:
            raise InputError(
                f"parameters={which!r} is no valid regular expression ({error}); "
                f"use all, norm, none or a pattern."
            ) from error
    if not chosen and which != "none":
        raise InputError(
            f"no parameter of the encoder matches {which!r}; its names look like {names[0]!r}."
        )
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name in chosen)
    return {name: p for name, p in encoder.named_parameters() if p.requires_grad}


def norm_parameters(encoder: nn.Module) -> dict[str, nn.Parameter]:
    """Scales and shifts of an encoder's normalisation layers, by name."""
    inside = {
        id(parameter)
        for module in encoder.modules()
        if isinstance(module, _NORMS)
        for parameter in module.parameters(recurse=False)
    }
    return {name: p for name, p in encoder.named_parameters() if id(p) in inside}
