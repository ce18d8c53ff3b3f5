"""What a guard costs on top of an adapted batch, with the frozen classifier's pass in it."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from common import alternate, clock_of, describe, random_bundle, ratio

from acclimate.adapt import Adapter
from acclimate.commands.script import finish, start
from acclimate.guard import Guard, Rules, measure_guard
from acclimate.methods import METHODS
from acclimate.runtime.memory import keep_freed_memory

TARGET = 1.15
ALWAYS = Rules(frozen_below=0.0, adapted_above=0.0, worse_below=0.0, fewest_classes=0.0)
"""Adapted answers whatever the signals say of random weights, so that good states are kept."""
BATCHES = 4
"""Batches of a measurement: at 128 images, a good state is kept in one of four."""


@dataclass
class Options:
    """Time guarded adapters against the same adapters alone."""

    methods: tuple[str, ...] = ("acclimate", "tent", "roid")
    model: str = "acclimate:resnet20-w16"
    batch: int = 128
    size: int = 32
    """Side of the images, in pixels."""
    pairs: int = 5
    """Number of rounds of measurements."""
    threads: int = 1
    """Threads of PyTorch; of one, the processor time is taken."""
    seed: int = 0
    out: Path | None = None
    """A JSON file."""


def measured(name: str, options: Options) -> dict:
    """Time one method: alone, beside the frozen classifier, and guarded."""
    recipe = METHODS[name].recipe
    bundle = random_bundle(options.model, recipe, options.size, options.seed)
    shape = (BATCHES * options.batch, 3, options.size, options.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    bundle = measure_guard(bundle, images, count=32)
    alone, beside, frozen = (Adapter(bundle, each) for each in (name, name, "source"))
    guard = Guard(Adapter(bundle, name), bundle, rules=ALWAYS)
    batches = images.split(options.batch)
    timed = {
        "alone": lambda _: [alone(batch) for batch in batches],
        "beside the frozen": lambda _: [(beside(batch), frozen(batch)) for batch in batches],
        "guarded": lambda _: [guard(batch) for batch in batches],
    }
    seconds = alternate(timed, options.pairs, clock_of(options.threads))
    over = {label: ratio(seconds, label, "alone") for label in seconds}
    for label, times in seconds.items():
        each = median(times) / BATCHES
        print(f"{name + ': ' + label:40} {each:8.3f}  {describe(over[label])}")
    return {"method": name, "seconds": seconds, "ratio_over_alone": over}


def main(options: Options) -> None:
    """Each method in turn."""
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    print(f"{'':40} {'seconds':>8}  over alone")
    rows = [measured(name, options) for name in options.methods]
    print(f"target: guarded over alone <= {TARGET} for acclimate")
    names = ("model", "batch", "size", "pairs", "threads")
    result = {
        "benchmark": "guard",
        "target": TARGET,
        "settings": {name: getattr(options, name) for name in names},
        "rows": rows,
    }
    finish(result, options.seed, options.out)


if __name__ == "__main__":
    start(main, Options)
