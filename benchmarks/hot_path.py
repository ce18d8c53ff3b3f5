"""What an adapted batch costs above the bare passes, and which part of the speed is bf16's."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import tyro
from common import alternate, describe, finish, ratio
from torch import Tensor, nn

from acclimate.adapt import Adapter
from acclimate.backbones import build, projected, split
from acclimate.bundle import Bundle
from acclimate.methods import AdapterSettings
from acclimate.objectives import contrastive_loss
from acclimate.precision import resolve
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import key
from acclimate.views import SimCLRViews, simclr_views

TARGET = 1.10
CLASSES = 10


@dataclass
class Options:
    """Time the adapter against the same passes written plainly."""

    model: str = "acclimate:resnet14-w32"
    batch: int = 128
    steps: int = 20
    size: int = 32
    """Side of the images, in pixels."""
    pairs: int = 5
    """Rounds of A B."""
    threads: int | None = None
    """None takes torch's default."""
    parts: bool = True
    """Also time the bare passes in float32, with and without channels_last."""
    seed: int = 0
    out: Path | None = None
    """A JSON file."""


def bare(
    model: nn.Module, options: Options, *, bf16: bool, layout: torch.memory_format
) -> Callable:
    """Adapt to a batch and answer as one would write it by hand: no checks, no choices."""
    model = copy.deepcopy(model).to(memory_format=layout).train().requires_grad_(False)
    encoder = model.encoder.requires_grad_(True)
    parameters = list(encoder.parameters())
    optimizer = torch.optim.Adam(parameters, 1e-4, fused=True)
    state = [tensor.detach() for tensor in (*parameters, *encoder.buffers())]
    floats = [tensor for tensor in state if tensor.is_floating_point()]
    source = [tensor.clone() for tensor in floats]
    index, mean, std = torch.arange(options.batch), *_statistics()
    settings = SimCLRViews()

    def normalize(images: Tensor) -> Tensor:
        return ((images - mean) / std).contiguous(memory_format=layout)

    def run(images: Tensor) -> Tensor:
        images = images.float() / 255
        torch._foreach_copy_(floats, source)
        for value in optimizer.state.values():
            torch._foreach_zero_(list(value.values()))
        for step in range(options.steps):
            drawn = key(options.seed, "adapt", step)
            views = simclr_views(images, settings, key=drawn, index=index, count=2)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                first, second = encoder(normalize(views)).chunk(2)
            loss = contrastive_loss(first, second, temperature=0.5)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        # In training mode batch norm normalises by the batch's own statistics.
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return model(normalize(images)).float()

    return run


def _statistics() -> tuple[Tensor, Tensor]:
    defaults = Preprocessing(1)
    return tuple(torch.tensor(x)[:, None, None] for x in (defaults.mean, defaults.std))


def adapter(classifier: nn.Module, twin: nn.Module, options: Options) -> Adapter:
    """CTA in its default settings, with the steps that are asked for."""
    bundle = Bundle(classifier, twin, Preprocessing(options.size), tuple(map(str, range(CLASSES))))
    settings = AdapterSettings(
        steps=options.steps, learning_rate=1e-4, normalisation="batch", seed=options.seed
    )
    return Adapter(bundle, "cta", settings)


def main(options: Options) -> None:
    """Compare, then take the speed apart."""
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    classifier = split(build(options.model, classes=CLASSES)).eval()
    twin = projected(classifier).eval()
    shape = (options.batch, 3, options.size, options.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    bf16 = resolve("auto", torch.device("cpu")) == "bf16"
    last, first = torch.channels_last, torch.contiguous_format
    runs = {
        "adapter": adapter(classifier, twin, options),
        "bare": bare(twin, options, bf16=bf16, layout=last),
    }
    if options.parts:
        runs["bare, float32 contiguous"] = bare(twin, options, bf16=False, layout=first)
        runs["bare, float32 channels_last"] = bare(twin, options, bf16=False, layout=last)
    _check_equal(runs["adapter"], runs["bare"], images)
    seconds = alternate(
        {name: lambda number, run=run: run(images) for name, run in runs.items()}, options.pairs
    )
    _report(seconds, bf16, options)


def _check_equal(adapter: Callable, bare: Callable, images: Tensor) -> None:
    """Both must do the same work: their answers agree up to bf16's rounding."""
    a, b = adapter(images), bare(images)
    difference = (a - b).abs().max().item() / b.abs().max().item()
    print(f"largest difference of the answers: {difference:.1e} of the largest logit")
    if difference > 0.1:
        raise SystemExit("the adapter and the bare passes do not compute the same")


def _report(seconds: dict[str, list[float]], bf16: bool, options: Options) -> None:
    names = {name: name + (f", {'bf16' if bf16 else 'float32'} channels_last") for name in seconds}
    print(f"{options.model}, batch {options.batch}, {options.steps} steps, {options.size} pixels")
    print(f"{'':36} {'seconds':>8}  over bare")
    ratios = {}
    for name, times in seconds.items():
        ratios[name] = ratio(seconds, name, "bare")
        label = names[name] if name in ("adapter", "bare") else name
        print(f"{label:36} {median(times):8.3f}  {describe(ratios[name])}")
    print(f"target: adapter over bare <= {TARGET}")
    result = {
        "benchmark": "hot_path",
        "target": TARGET,
        "precision": "bf16" if bf16 else "fp32",
        "settings": {
            name: getattr(options, name) for name in ("model", "batch", "steps", "size", "pairs")
        },
        "seconds": seconds,
        "ratio_over_bare": ratios,
    }
    finish(result, options.seed, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
