"""The layers of a network after a tap, as a network of their own."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from acclimate.backbones.copies import duplicate
from acclimate.backbones.taps import tapped
from acclimate.backbones.trace import eval_mode, run, two_images
from acclimate.errors import InputError
from acclimate.resizing import Side


class FirstToken(nn.Module):
    """Selects the class token, which is the first."""

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch dim"]:
        """Return the first token."""
        return tokens[:, 0]


class MeanOfTokens(nn.Module):
    """The mean of the tokens, without the first ``skip`` ones."""

    def __init__(self, skip: int = 0):
        super().__init__()
        self.skip = skip

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch dim"]:
        """The mean over positions."""
        return tokens[:, self.skip :].mean(dim=1)


# Operations that networks apply between their modules, by the number of dimensions of the features.
# The mean comes before flattening: the two are equal for a single pixel, and only the mean also
# fits other image sizes.
_MEAN = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
_BETWEEN: dict[int, list[list[nn.Module]]] = {
    2: [[], [nn.ReLU()]],
    3: [[], [FirstToken()], [MeanOfTokens()], [MeanOfTokens(skip=1)], [nn.Flatten()]],
    4: [[], [nn.ReLU()], _MEAN, [nn.ReLU(), *_MEAN], [nn.Flatten()], [nn.ReLU(), nn.Flatten()]],
}


def rest_after(encoder: nn.Module, tap: str, size: Side) -> nn.Sequential:
    """The layers of an encoder after a tap, as a network that maps tapped features to its output.

    ```python
    rest = rest_after(encoder, "stages.1", size=32)
    features = rest(tapped(encoder, ["stages.1"], images)[0])  # equals encoder(images)
    ```

    This works for any network in which, from the tap on, each module's output is the next one's
    input. Between two modules, a ReLU, flattening, the mean over positions and the selection of
    the first token are recognised.

    Args:
        encoder: Maps images to features. It is not changed.
        tap: The dotted name of a module.
        size: Height and width of the images for the traced forward pass.

    Returns:
        Deep copies of the layers, so that training them leaves the encoder unchanged. A layer that
        the encoder uses twice is a single layer here too. Activations are not in place, so that
        the tapped features are not overwritten.

    Raises:
        InputError: the module does not exist or is never called; the network does not accept
            images of this size; or the path divides after the module, as inside a residual block.
    """
    probe = duplicate(encoder).float()
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
    """Replace every constant parameter by random values.

    The residual branches of a new network may be zero; a path without them would then also
    reproduce its output.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
                parameter.copy_(0.5 + 0.5 * torch.rand(parameter.shape, generator=generator))


def _modules(network: nn.Module, steps: list[str | nn.Module]) -> list[nn.Module]:
    """Deep copies of the layers, made in one call so that shared modules stay shared."""
    chosen = (network.get_submodule(step) if isinstance(step, str) else step for step in steps)
    return list(duplicate(nn.ModuleList(chosen)))


def _follow(
    network: nn.Module, tap: str, images: Float[Tensor, "2 3 size size"]
) -> list[str | nn.Module] | None:
    """Modules by name, and operations between them, from tap to output; None if not traceable."""
    follower = _Follower(tap)
    hooks = []
    for name, module in network.named_modules():
        before = module.register_forward_pre_hook(
            lambda _, inputs, named, name=name: follower.enter(name, (*inputs, *named.values())),
            with_kwargs=True,
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
    """Follows the tapped features through a forward pass and records the modules they enter."""

    def __init__(self, tap: str):
        self.tap = tap
        self.steps: list[str | nn.Module] = []
        self.features: Tensor | None = None
        self.depth = 0
        self.taken_at: int | None = None  # depth of the call that the features have entered

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
            # A copy, because a later module may work in place.
            self.features = output.clone() if isinstance(output, Tensor) else None
            self.taken_at = None
        self.depth -= 1

    def between(self, target: Any) -> list[nn.Module] | None:
        """The operations that turn the last features into ``target``; None if none is known."""
        if self.features is None or not isinstance(target, Tensor):
            return None
        for modules in _BETWEEN.get(self.features.ndim, []):
            if _is_close(nn.Sequential(*modules)(self.features), target):
                return modules
        return None


def _is_close(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal up to rounding."""
    if one.shape != other.shape:
        return False
    return torch.allclose(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))
