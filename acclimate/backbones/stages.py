"""The stages of a network, found by tracing one forward pass."""

import difflib
from collections.abc import Iterator
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from acclimate.backbones.trace import Call, trace
from acclimate.errors import InputError, unknown_name
from acclimate.resizing import Side


def stage_names(encoder: nn.Module, size: Side) -> list[str]:
    """The names of a network's stages, in the order in which they are called.

    ```python
    network = acclimate.split(torchvision.models.resnet18())
    stage_names(network.encoder, size=224)  # ["layer1", "layer2", "layer3", "layer4"]
    ```

    In a convolutional network, a stage ends where the resolution changes: it is the outermost
    container module that is called last at its resolution (``layer1`` to ``layer4`` of a ResNet,
    ``features.1``, ``.3``, ``.5`` and ``.7`` of torchvision's ConvNeXt). A container that spans
    several resolutions is replaced by its children. A stem that is a single convolution is not a
    stage. Where fewer than two resolutions have containers (VGG), single convolutions count as
    stages, each with the norm and activation after it.

    In a transformer the stages are its blocks: the outermost container modules of which each takes
    the output of the one before.

    Args:
        encoder: Maps images to features. Neither it nor any random number generator is changed.
        size: Height and width of the images. Stages whose maps all are a single pixel count as one
            stage.

    Returns:
        Dotted names, as in ``encoder.named_modules()``; an empty list for a network without stages.

    Raises:
        InputError: the network does not accept images of this size.
    """
    root = trace(encoder, size)
    if _of_tokens(root):
        return [call.name for call in _blocks(root)]
    units = _units(root, is_root=True)
    containers = [unit for unit in units if _is_container(unit) and _has_weights(unit)]
    names = {_resolution(unit): unit.name for unit in containers}
    if len(names) < 2:
        names = {_resolution(unit): unit.name for unit in units}
    return list(names.values())


def block_names(encoder: nn.Module, size: Side) -> list[str]:
    """The names of a transformer's blocks, in the order in which they are called.

    ```python
    block_names(timm.create_model("vit_tiny_patch16_224"), 224)  # ["blocks.0", ..., "blocks.11"]
    ```

    Args:
        encoder: Maps images to features. It is not changed.
        size: Height and width of the images.

    Returns:
        Dotted names; an empty list for a network that is no plain transformer.

    Raises:
        InputError: the network does not accept images of this size.
    """
    root = trace(encoder, size)
    return [call.name for call in _blocks(root)] if _of_tokens(root) else []


def resolve_tap(encoder: nn.Module, tap: str | int, size: Side) -> str:
    """The dotted name of the module after which a method branches off.

    ```python
    resolve_tap(encoder, 2, size=32)  # "stages.1", the second stage
    ```

    Args:
        encoder: Maps images to features.
        tap: A module's dotted name, or a stage's number, counted from 1 (see `stage_names`).
        size: Height and width of the images.

    Raises:
        InputError: there is no module of this name, or no stage of this number.
    """
    if isinstance(tap, str):
        names = [name for name, _ in encoder.named_modules() if name]
        if tap not in names:
            # A network may have hundreds of layers: list only the nearest names.
            near = difflib.get_close_matches(tap, names, n=8, cutoff=0)
            raise unknown_name("layer", tap, near)
        return tap
    names = stage_names(encoder, size)
    if not names:
        raise InputError("the network has no stages that can be told apart; name a layer instead.")
    if not 1 <= tap <= len(names):
        listed = ", ".join(f"{number} ({name})" for number, name in enumerate(names, 1))
        raise InputError(
            f"the network has no stage {tap}; choose one of {listed}, or give a layer's name."
        )
    return names[tap - 1]


def as_map(features: Float[Tensor, " batch *shape"]) -> Float[Tensor, "batch channels h w"]:
    """Features as a map: tokens become a single column of positions, maps stay unchanged.

    ```python
    positions = as_map(tapped(encoder, ["blocks.1"], images)[0])  # [batch, channels, tokens, 1]
    ```

    Args:
        features: ``[batch, channels, height, width]`` or ``[batch, tokens, channels]``.

    Raises:
        InputError: the features have another number of dimensions, hence no positions.
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
    """The outermost calls of one resolution each; a single layer includes its norm and ReLU."""
    maps = list(_maps(call))
    parts = [part for part in maps if _has_weights(part)]
    resolutions = {_resolution(part) for part in parts}
    # Children that take the same tensor are branches of a block, not stages.
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
    """The outermost calls whose output is a map; a call with another output is searched."""
    for part in call.calls:
        if _dimensions(part) == 4:
            yield part
        else:
            yield from _maps(part)


def _blocks(call: Call) -> list[Call]:
    """The outermost calls, at least two, of which each takes the tokens of the one before."""
    parts = [
        part
        for part in call.calls
        if _is_container(part) and _has_weights(part) and _dimensions(part) == 3
    ]
    # Only calls that take tokens: a patch embedding is not a block.
    parts = [part for part in parts if isinstance(part.input, Tensor) and part.input.ndim == 3]
    if len(parts) > 1 and all(b.input is a.output for a, b in pairwise(parts)):
        return parts
    return max((_blocks(part) for part in call.calls), key=len, default=[])


def _dimensions_at_the_end(call: Call) -> int:
    """Number of dimensions (3 or 4) of the last container's output with positions; 0 if none."""
    if _is_container(call) and _has_weights(call) and _dimensions(call) in (3, 4):
        return _dimensions(call)
    ends = (_dimensions_at_the_end(part) for part in reversed(call.calls))
    return next((end for end in ends if end), 0)


def _of_tokens(root: Call) -> bool:
    """Whether the network works on tokens to the end."""
    return _dimensions_at_the_end(root) == 3


def _is_container(call: Call) -> bool:
    return any(True for _ in call.module.children())


def _has_weights(call: Call) -> bool:
    """Whether the module mixes channels; a norm only scales them."""
    return any(parameter.ndim > 1 for parameter in call.module.parameters())


def _dimensions(call: Call) -> int:
    return call.output.ndim if isinstance(call.output, Tensor) else 0


def _resolution(call: Call) -> tuple[int, ...]:
    return tuple(call.output.shape[2:])
