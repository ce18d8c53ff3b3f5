"""The stages of any network by number, found by watching one forward pass."""

import difflib
from collections.abc import Iterator
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from acclimate.backbones.trace import Call, trace
from acclimate.errors import InputError, unknown_name


def stage_names(encoder: nn.Module, size: int) -> list[str]:
    """The names of a network's stages, in the order in which they are called.

    In a convolutional network a stage ends where the resolution changes: it is the outermost
    module with layers inside that is called last at its resolution (``layer1`` to ``layer4`` of a
    ResNet, ``features.1``, ``.3``, ``.5`` and ``.7`` of torchvision's ConvNeXt). Containers that
    span several resolutions are looked into. A stem that is a single convolution is no stage.
    Where fewer than two resolutions have such modules (VGG), single convolutions count, each with
    the norm and activation after it.

    In a network of tokens the stages are its blocks: the outermost modules inside which there are
    layers and of which each takes what the one before it made.

    Args:
        encoder: Maps images to features; it is not changed, nor is any state of random numbers.
        size: Height and width of the images. Stages that all see one pixel there are one stage.

    Returns:
        Dotted names, as in ``encoder.named_modules()``; none for a network without stages.

    Raises:
        InputError: the network takes no images of this size.
    """
    root = trace(encoder, size)
    if _dimensions_at_the_end(root) == 3:
        return [call.name for call in _blocks(root)]
    units = _units(root, is_root=True)
    containers = [unit for unit in units if _is_container(unit) and _has_weights(unit)]
    names = {_resolution(unit): unit.name for unit in containers}
    if len(names) < 2:
        names = {_resolution(unit): unit.name for unit in units}
    return list(names.values())


def resolve_tap(encoder: nn.Module, tap: str | int, size: int) -> str:
    """The module that a method branches off after.

    Args:
        encoder: Maps images to features.
        tap: A module's dotted name, or a stage's number from 1 (see `stage_names`).
        size: Height and width of the images.

    Raises:
        InputError: no module of that name, or no stage of that number.
    """
    if isinstance(tap, str):
        names = [name for name, _ in encoder.named_modules() if name]
        if tap not in names:
            # A network has hundreds of layers: only the nearest help.
            near = difflib.get_close_matches(tap, names, n=8, cutoff=0)
            raise unknown_name("layer", tap, near)
        return tap
    names = stage_names(encoder, size)
    if not names:
        raise InputError("the network has no stages that can be told apart; name a layer instead.")
    if not 1 <= tap <= len(names):
        listed = ", ".join(f"{number} ({name})" for number, name in enumerate(names, 1))
        raise InputError(
            f"the network has no stage {tap}; choose one of {listed}, or name a layer."
        )
    return names[tap - 1]


def as_map(features: Float[Tensor, " batch *shape"]) -> Float[Tensor, "batch channels h w"]:
    """Features as a map: ``[batch, tokens, channels]`` as a column of positions, maps unchanged.

    Raises:
        InputError: features that have no positions.
    """
    if features.ndim == 4:
        return features
    if features.ndim == 3:
        return features.mT.unsqueeze(-1)  # [batch, channels, tokens, 1]
    raise InputError(
        f"features of shape {list(features.shape)} have no positions; tap an earlier layer, whose "
        "output is [batch, channels, height, width] or [batch, tokens, channels]."
    )


def _units(call: Call, *, is_root: bool = False) -> list[Call]:
    """The outermost calls of one resolution each; a single layer stands with what follows it."""
    maps = list(_maps(call))
    parts = [part for part in maps if _has_weights(part)]
    resolutions = {_resolution(part) for part in parts}
    # Children that take the same tensor are the branches of a block, and no stages.
    is_chain = len({id(part.input) for part in parts}) == len(parts)
    if not is_root and not (is_chain and len(resolutions) > 1):
        return [call]
    units: list[Call] = []
    follows_layer = False
    for part in maps:
        if _has_weights(part):
            follows_layer = not _is_container(part)
            units += [part] if follows_layer else _units(part)
        elif follows_layer and part.output.shape == units[-1].output.shape:
            units[-1] = part
    return units


def _maps(call: Call) -> Iterator[Call]:
    """The outermost calls inside that give maps; a network within, which gives none, is opened."""
    for part in call.calls:
        if _dimensions(part) == 4:
            yield part
        else:
            yield from _maps(part)


def _blocks(call: Call) -> list[Call]:
    """The outermost calls, two at least, that hand tokens to one another."""
    parts = [
        part
        for part in call.calls
        if _is_container(part) and _has_weights(part) and _dimensions(part) == 3
    ]
    # Only what takes tokens: an embedding of patches is no block.
    parts = [part for part in parts if isinstance(part.input, Tensor) and part.input.ndim == 3]
    if len(parts) > 1 and all(b.input is a.output for a, b in pairwise(parts)):
        return parts
    return max((_blocks(part) for part in call.calls), key=len, default=[])


def _dimensions_at_the_end(call: Call) -> int:
    """Those of the last features with positions that a module with layers inside makes."""
    if _is_container(call) and _has_weights(call) and _dimensions(call) in (3, 4):
        return _dimensions(call)
    ends = (_dimensions_at_the_end(part) for part in reversed(call.calls))
    return next((end for end in ends if end), 0)


def _is_container(call: Call) -> bool:
    return any(True for _ in call.module.children())


def _has_weights(call: Call) -> bool:
    """Whether it mixes channels; a norm only scales them."""
    return any(parameter.ndim > 1 for parameter in call.module.parameters())


def _dimensions(call: Call) -> int:
    return call.output.ndim if isinstance(call.output, Tensor) else 0


def _resolution(call: Call) -> tuple[int, ...]:
    return tuple(call.output.shape[2:])
