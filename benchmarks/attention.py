"""Attention of short sequences, forward and backward: torch's fused kernel against plain products.

    python benchmarks/attention.py --out results/benchmarks/attention.json

Timm's layer with and without ``fused_attn``, in turns, at the precision that adapters take here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import torch
from common import alternate, describe, ratio
from timm.layers import Attention

from acclimate.commands.script import finish, start, told
from acclimate.runtime.precision import autocast, resolve


@dataclass(frozen=True)
class Arguments:
    """How much to time."""

    tokens: tuple[int, ...] = (17, 65, 197)
    """Of a sequence: a quarter of 64 patches and all of them, with a class token; ViT's at 224."""
    images: int = 128
    """Sequences that are worked on together."""
    width: int = 192
    """Channels of a token, in heads of 64."""
    pairs: int = 5
    """Rounds."""
    seed: int = 0
    out: Path | None = None
    """Where the result is written."""


def main(arguments: Arguments) -> None:
    """Time, print, write."""
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    device, found = torch.device("cpu"), {}
    for tokens in arguments.tokens:
        runs = {name: one(arguments, tokens, name == "fused") for name in ("fused", "plain")}
        seconds = alternate(runs, arguments.pairs, process_time)
        found[str(tokens)] = ratio(seconds, "fused", "plain")
        print(f"{tokens} tokens: fused takes {describe(found[str(tokens)])} times as long as plain")
    result = {"options": told(arguments), "precision": resolve("auto", device), "ratios": found}
    finish(result, arguments.seed, arguments.out)


def one(arguments: Arguments, tokens: int, fused: bool) -> Callable[[int], None]:
    """A pass of a layer, forward and backward."""
    layer = Attention(arguments.width, arguments.width // 64, qkv_bias=True)
    layer.fused_attn = fused
    x = torch.randn(arguments.images, tokens, arguments.width, requires_grad=True)

    def run(_: int) -> None:
        with autocast(x.device, "auto"):
            layer(x).sum().backward()

    return run


if __name__ == "__main__":
    start(main, Arguments)
