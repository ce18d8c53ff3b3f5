"""Prompts: tokens beside an image's own that a transformer's blocks attend to."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from acclimate.backbones.batch_norm import exchange
from acclimate.backbones.stages import block_names
from acclimate.backbones.taps import tapped
from acclimate.errors import InputError
from acclimate.resizing import Side


class Prompted(nn.Module):
    """A transformer's first block, which gets prompts after the tokens.

    Args:
        block: The block.
        count: Number of prompts.
        width: Channels of a token.

    Attributes:
        prompts: The prompts, zeros at first.
    """

    def __init__(self, block: nn.Module, count: int, width: int):
        super().__init__()
        self.block = block
        self.prompts: nn.Parameter = nn.Parameter(torch.zeros(count, width), requires_grad=False)

    def forward(self, tokens: Float[Tensor, "batch tokens width"], *args: Any, **named: Any) -> Any:
        """The block's output, prompts included."""
        prompts = self.prompts.to(tokens.dtype).expand(len(tokens), -1, -1)
        return self.block(torch.cat([tokens, prompts], dim=1), *args, **named)


class Unprompted(nn.Module):
    """A transformer's last block, without prompts in its output.

    Args:
        block: The block.
        count: Number of prompts.
    """

    def __init__(self, block: nn.Module, count: int):
        super().__init__()
        self.block: nn.Module = block
        self.count: int = count

    def forward(self, *args: Any, **named: Any) -> Float[Tensor, "batch tokens width"]:
        """The block's output for the image's own tokens."""
        return self.block(*args, **named)[:, : -self.count]


def blocks_of(encoder: nn.Module, size: Side) -> list[str]:
    """The names of a transformer's blocks.

    Args:
        encoder: Maps images to features.
        size: Height and width of its images.

    Raises:
        InputError: the encoder is no plain transformer.
    """
    if blocks := block_names(encoder, size):
        return blocks
    raise InputError(
        "prompts are for vision transformers, and this model has no sequence of blocks that work "
        "on tokens; choose another method or model."
    )


@torch.no_grad()
def add_prompts(
    encoder: nn.Module,
    blocks: Sequence[str],
    count: int,
    images: Float[Tensor, "batch channels h w"],
) -> nn.Parameter:
    """Let a transformer attend to prompts, which begin as zeros.

    ```python
    prompts = add_prompts(encoder, block_names(encoder, 224), 3, images)  # [3, width]
    ```

    Args:
        encoder: Changed in place: its first and last block are wrapped.
        blocks: The names of its blocks, at least two.
        count: Number of prompts.
        images: Any normalised images, on which it is tried.

    Returns:
        The prompts.

    Raises:
        InputError: the blocks take no further tokens.
    """
    first, last = (encoder.get_submodule(blocks[place]) for place in (0, -1))
    (tokens,) = tapped(encoder, [blocks[0]], images)
    prompted = Prompted(first, count, tokens.shape[-1]).to(tokens.device)
    exchange(encoder, {first: prompted, last: Unprompted(last, count)})
    try:
        encoder(images)
    except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
        raise InputError(
            f"the network's blocks take no tokens beside those of the image "
            f"({str(error).partition(chr(10))[0]}); choose another method or model."
        ) from error
    return prompted.prompts


def reads_one_token(
    encoder: nn.Module, block: str, images: Float[Tensor, "batch channels h w"]
) -> bool:
    """Whether the features depend on the first token alone: a class token.

    Args:
        encoder: Left as it is.
        block: Name of its last block.
        images: Any normalised images.
    """

    def alone(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return torch.cat([output[:, :1], torch.zeros_like(output[:, 1:])], dim=1)

    with torch.no_grad():
        whole = encoder(images)
        handle = encoder.get_submodule(block).register_forward_hook(alone)
        try:
            return torch.equal(encoder(images), whole)
        finally:
            handle.remove()


def block_activations(
    encoder: nn.Module,
    blocks: Sequence[str],
    images: Float[Tensor, "batch channels h w"],
    *,
    one_token: bool,
) -> list[Float[Tensor, "batch width"]]:
    """What each block gives on to the next, one vector an image, and the features at the end.

    Of each block but the last it is the class token, or the mean over the image's own tokens where
    there is none, as the first layer norm of the next block normalises it.

    Args:
        encoder: With prompts or without.
        blocks: The names of its blocks.
        images: Normalised.
        one_token: Whether the features depend on the first token alone.

    Returns:
        One tensor for each block; the last is the features.
    """
    own = slice(None)

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal own  # prompts come after the image's own tokens
        own = slice(1) if one_token else slice(inputs[0].shape[1])

    def keep(norm: nn.Module, module: nn.Module, inputs: Any, output: Any) -> None:
        found.append(norm(output[:, own].mean(1)))

    found: list[Tensor] = []
    modules = [encoder.get_submodule(name) for name in blocks]
    handles = [modules[0].register_forward_pre_hook(count)]
    for module, following in pairwise(modules):
        handles.append(module.register_forward_hook(partial(keep, _first_norm(following))))
    try:
        features = encoder(images)
    finally:
        for handle in handles:
            handle.remove()
    return [*found, features]


def _first_norm(block: nn.Module) -> nn.Module:
    """The first layer norm of a block; nothing is changed where it has none."""
    return next((m for m in block.modules() if isinstance(m, nn.LayerNorm)), nn.Identity())
