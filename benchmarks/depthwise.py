"""Steps of networks with depthwise convolutions: bf16 with and without float32 gradients."""

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from common import alternate, describe, ratio

from acclimate.backbones import build
from acclimate.commands.script import finish, start
from acclimate.runtime.precision import autocast

CPU = torch.device("cpu")


@dataclass
class Options:
    """Time a forward and a backward pass of each network."""

    models: tuple[str, ...] = (
        "timm:tf_efficientnet_lite0",
        "timm:mobilenetv3_large_100",
        "timm:mobilenetv2_100",
        "timm:convnext_atto",
        "torchvision:mobilenet_v3_small",
    )
    size: int = 224
    batch: int = 8
    pairs: int = 3
    seed: int = 0
    out: Path | None = None
    """A JSON file."""


def measured(model: str, options: Options) -> dict:
    """The ratios of one network."""
    torch.manual_seed(options.seed)
    network = build(model, classes=1000).to(memory_format=torch.channels_last).train()
    shape = (options.batch, 3, options.size, options.size)
    images = torch.rand(shape).contiguous(memory_format=torch.channels_last)

    def step(context) -> None:
        with context:
            logits = network(images)
        logits.float().logsumexp(1).mean().backward()
        network.zero_grad()

    runs = {
        "fp32": lambda _: step(autocast(CPU, "fp32")),
        "torch's bf16": lambda _: step(torch.autocast("cpu", torch.bfloat16)),
        "bf16": lambda _: step(autocast(CPU, "bf16")),
    }
    seconds = alternate(runs, options.pairs, time.process_time)
    ratios = {name: ratio(seconds, name, "fp32") for name in seconds}
    per_image = 1000 * median(seconds["fp32"]) / options.batch
    texts = (describe(ratios[name]) for name in ("torch's bf16", "bf16"))
    print(f"{model:32} {per_image:8.1f}", *(f"{text:>24}" for text in texts), flush=True)
    return {"model": model, "seconds": seconds, "ratio_over_fp32": ratios}


def main(options: Options) -> None:
    """Each network in turn."""
    torch.set_num_threads(1)
    print(f"{'':32} {'ms/image':>8} {'torch bf16 over fp32':>24} {'bf16 over fp32':>24}")
    rows = [measured(model, options) for model in options.models]
    settings = {name: getattr(options, name) for name in ("size", "batch", "pairs")}
    finish(
        {"benchmark": "depthwise", "settings": settings, "rows": rows}, options.seed, options.out
    )


if __name__ == "__main__":
    start(main, Options)
