"""A training step as one CUDA graph, with PyTorch's own kernels and with those of torch.compile.

    python benchmarks/compiled.py --out compiled.json

Both run the supervised step of `acclimate train` on random images: bf16, channels_last, Adam. The
rounds alternate; the ratio is plain over compiled: above 1 compiling is faster. The time of the
first steps, in which torch.compile compiles, is reported beside it.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from common import CLASSES, alternate, describe, ratio
from torch import Tensor
from torch.nn.functional import cross_entropy

from acclimate.backbones import build
from acclimate.commands.script import finish, start
from acclimate.runtime.graphs import Recorder
from acclimate.runtime.precision import autocast
from acclimate.source.loop import make_optimizer
from acclimate.source.presets import PRESETS


@dataclass
class Options:
    """Time both on the GPU."""

    models: tuple[str, ...] = ("acclimate:resnet26-w32",)
    """Networks that are trained."""
    batch: int = 256
    """Images of a step."""
    steps: int = 20
    """Steps of a round."""
    rounds: int = 10
    seed: int = 0
    out: Path | None = None
    """A JSON file."""


class Step:
    """A step of training, recorded as a graph; called with the number of a round.

    Args:
        model: Name of the network.
        compiled: Whether torch.compile makes its kernels.
        options: Images and steps.
    """

    def __init__(self, model: str, compiled: bool, options: Options):
        device = torch.device("cuda")
        torch.manual_seed(options.seed)
        network = build(model, classes=CLASSES).to(device, memory_format=torch.channels_last)
        network.train()
        images = torch.rand(options.batch, 3, 32, 32, device=device)
        self._images = images.contiguous(memory_format=torch.channels_last)
        self._labels = torch.randint(0, CLASSES, (options.batch,), device=device)
        self._optimizer = make_optimizer(list(network.parameters()), PRESETS["paper"].supervised)
        self._forward = torch.compile(network) if compiled else network
        self._recorder = Recorder("the step", device)
        self._steps = options.steps
        began = time.perf_counter()
        self(0)
        torch.cuda.synchronize()
        self.first_seconds = time.perf_counter() - began

    @property
    def obstacle(self) -> str:
        """Why the step is no graph."""
        return self._recorder.obstacle

    def __call__(self, number: int) -> None:
        """Take the steps of a round."""
        for _ in range(self._steps):
            self._recorder(self._step, self._images, self._labels)
        torch.cuda.synchronize()

    def _step(self, images: Tensor, labels: Tensor) -> tuple[Tensor]:
        self._optimizer.zero_grad()
        with autocast(images.device, "bf16"):
            loss = cross_entropy(self._forward(images).float(), labels)
        loss.backward()
        self._optimizer.step()
        return (loss.detach(),)


def main(options: Options) -> None:
    """Measure each network."""
    rows = []
    for model in options.models:
        plain, compiled = (Step(model, each, options) for each in (False, True))
        seconds = alternate({"plain": plain, "compiled": compiled}, options.rounds)
        row = {
            "model": model,
            "plain_ms": 1e3 * median(seconds["plain"]) / options.steps,
            "compiled_ms": 1e3 * median(seconds["compiled"]) / options.steps,
            "ratio": ratio(seconds, "plain", "compiled"),
            "first_round_seconds": {
                "plain": plain.first_seconds,
                "compiled": compiled.first_seconds,
            },
            "obstacles": [plain.obstacle, compiled.obstacle],
        }
        print(model, describe(row["ratio"]), row, flush=True)
        rows.append(row)
    finish({"benchmark": "compiled", "rows": rows}, options.seed, options.out)


if __name__ == "__main__":
    start(main, Options)
