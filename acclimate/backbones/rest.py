"""What a network does after a tap, as a network of its own, to branch off there."""

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from acclimate.backbones.taps import tapped
from acclimate.backbones.trace import eval_mode, run, two_images
from acclimate.errors import InputError


class FirstToken(nn.Module):
    """The token that stands for the class."""

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch dim"]:
        """The first token."""
        return tokens[:, 0]


class MeanOfTokens(nn.Module):
    """The mean of the tokens, without as many at the start as are to be skipped."""

    def __init__(self, skip: int = 0):
        super().__init__()
        self.skip = skip

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch dim"]:
        """The mean over positions."""
        return tokens[:, self.skip :].mean(dim=1)


# What networks do between their modules, by the features' dimensions. The mean stands before the
# flattening: of a single pixel they are the same, and the mean then holds at other sizes too.
_MEAN = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
_GLUE: dict[int, list[list[nn.Module]]] = {
    2: [[], [nn.ReLU()]],
    3: [[], [FirstToken()], [MeanOfTokens()], [MeanOfTokens(skip=1)], [nn.Flatten()]],
    4: [[], [nn.ReLU()], _MEAN, [nn.ReLU(), *_MEAN], [nn.Flatten()], [nn.ReLU(), nn.Flatten()]],
}


def rest_after(encoder: nn.Module, tap: str, size: int) -> nn.Sequential:
    """What an encoder runs after a tap: ``rest(tapped(encoder, [tap], x)[0])`` is ``encoder(x)``.

    It is found for any network in which, from the tap on, one module feeds the next. Between them
    a ReLU, flattening, the mean over positions and the choice of the first token are understood.

    Args:
        encoder: Maps images to features; it is not changed.
        tap: The dotted name of a module.
        size: Height and width of the images that the encoder is watched with.

    Returns:
        Deep copies, which learn apart from the encoder; a layer that it uses twice is one layer
        here too. Their activations do not work in place, so that what was tapped stays as it was.

    Raises:
        InputError: no such module, one that is never called, images of the wrong size, or a
            module after which the path divides, as inside a residual block.
    """
    probe = copy.deepcopy(encoder).float()
    _vary_constants(probe)
    images = two_images(probe, size)
    with eval_mode(probe), torch.no_grad():
        features = run(probe, images)
        start = tapped(probe, [tap], images)[0]
        steps = _follow(probe, tap, images)
        if steps is None or not _is_close(nn.Sequential(*_modules(probe, steps))(start), features):
            raise InputError(
                f"the network cannot be branched at {tap!r}, because its features depend on more "
                "than that layer's output; tap another layer, such as the last one of a stage."
            )
    rest = nn.Sequential(*_modules(encoder, steps))
    for module in rest.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return rest


def _vary_constants(network: nn.Module) -> None:
    """Random weights instead of equal ones: a new network's residual branches may be zero.

    A path that leaves them out would then look right.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
                parameter.copy_(0.5 + 0.5 * torch.rand(parameter.shape, generator=generator))


def _modules(network: nn.Module, steps: list[str | nn.Module]) -> list[nn.Module]:
    """Copies, made together so that modules share what they shared before."""
    return copy.deepcopy(
        [network.get_submodule(step) if isinstance(step, str) else step for step in steps]
    )


def _follow(
    network: nn.Module, tap: str, images: Float[Tensor, "2 3 size size"]
) -> list[str | nn.Module] | None:
    """Modules by name, and what stands between them, from a tap to the output; None if lost."""
    follower = _Follower(tap)
    hooks = []
    for name, module in network.named_modules():
        before = module.register_forward_pre_hook(
            lambda _, inputs, name=name: follower.enter(name, inputs)
        )
        after = module.register_forward_hook(
            lambda _, __, output, name=name: follower.leave(name, output)
        )
        hooks += [before, after]
    try:
        output = network(images)
    finally:
        for hook in hooks:
            hook.remove()
    between = follower.between(output)
    return None if between is None else [*follower.steps, *between]


class _Follower:
    """Goes along with the tapped features: told of every call, it notes those that take them."""

    def __init__(self, tap: str):
        self.tap = tap
        self.steps: list[str | nn.Module] = []
        self.features: Tensor | None = None
        self.depth = 0
        self.taken_at: int | None = None  # the depth of the call that has the features now

    def enter(self, name: str, inputs: tuple[Any, ...]) -> None:
        self.depth += 1
        if self.taken_at is not None or not inputs:
            return
        between = self.between(inputs[0])
        if between is not None:
            self.steps += [*between, name]
            self.taken_at = self.depth

    def leave(self, name: str, output: Any) -> None:
        is_first_tap = name == self.tap and self.features is None and not self.steps
        if self.taken_at == self.depth or is_first_tap:
            # A copy: the network may go on in place.
            self.features = output.clone() if isinstance(output, Tensor) else None
            self.taken_at = None
        self.depth -= 1

    def between(self, target: Any) -> list[nn.Module] | None:
        """What makes the target of the features that were last seen; None if nothing known does."""
        if self.features is None or not isinstance(target, Tensor):
            return None
        for modules in _GLUE.get(self.features.ndim, []):
            if _is_close(nn.Sequential(*modules)(self.features), target):
                return modules
        return None


def _is_close(one: Tensor, other: Tensor) -> bool:
    """Whether they are equal but for the rounding of sums in another order."""
    if one.shape != other.shape:
        return False
    return torch.allclose(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))
