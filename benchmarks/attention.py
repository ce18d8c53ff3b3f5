"""Attention on short sequences: torch's fused kernel against plain matrix products.

    python benchmarks/attention.py --out results/benchmarks/attention.json

Times forward and backward pass of timm's attention layer with and without ``fused_attn``,
alternately, at the precision that adapters use on this machine.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import torch
from common import alternate, describe, ratio
from timm.layers import Attention

from acclimate.commands.script import finish, recorded_options, start
from acclimate.runtime.precision import autocast, resolve


@dataclass(frozen=True)
class Arguments:
    """Shapes and number of rounds."""

    tokens: tuple[int, ...] = (17, 65, 197)
    """Sequence lengths: 16, 64 and (ViT at 224 pixels) 196 patches, each with a class token."""
    images: int = 128
    """Number of sequences per batch."""
    width: int = 192
    """Channels of a token; each attention head has 64."""
    pairs: int = 5
    """Number of rounds."""
    seed: int = 0
    """Random seed of weights and inputs."""
    out: Path | None = None
    """JSON file for the result."""


def main(arguments: Arguments) -> None:
    """Time both at every sequence length, print the ratios, write the result."""
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    device, ratios = torch.device("cpu"), {}
    for tokens in arguments.tokens:
        runs = {name: one(arguments, tokens, name == "fused") for name in ("fused", "plain")}
        seconds = alternate(runs, arguments.pairs, process_time)
        ratios[str(tokens)] = ratio(seconds, "fused", "plain")
        print(
            f"{tokens} tokens: fused takes {describe(ratios[str(tokens)])} times as long as plain"
        )
    result = {
        "options": recorded_options(arguments),
        "precision": resolve("auto", device),
        "ratios": ratios,
    }
    finish(result, arguments.seed, arguments.out)


def one(arguments: Arguments, tokens: int, fused: bool) -> Callable[[int], None]:
    """A function that runs one forward and one backward pass of the layer."""
    layer = Attention(arguments.width, arguments.width // 64, qkv_bias=True)
    layer.fused_attn = fused
    x = torch.randn(arguments.images, tokens, arguments.width, requires_grad=True)

    def run(_: int) -> None:
        with autocast(x.device, "auto"):
            layer(x).sum().backward()

    return run


if __name__ == "__main__":
    start(main, Arguments)
