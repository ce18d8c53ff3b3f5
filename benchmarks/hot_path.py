"""What an adapted batch costs above the bare passes, for each method; what bf16's part in it is."""

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from bare import Bare
from bare_setup import kind
from common import alternate, clock_of, describe, random_bundle, ratio
from torch import Tensor

from acclimate.adapt import Adapter
from acclimate.bundle import Bundle
from acclimate.commands.script import finish, start
from acclimate.methods import METHODS, AdapterSettings, changed
from acclimate.methods.words import needs_transformer
from acclimate.parts.normalisation import BatchStatistics
from acclimate.runtime.memory import keep_freed_memory
from acclimate.runtime.precision import resolve
from acclimate.source.statistics import measure

TARGET = 1.05
WITH_STEPS = tuple(n for n, row in METHODS.items() if row.objective and not row.zero_shot)
TRANSFORMER = "acclimate:vit6-w192-p4"
EVERY_IMAGE = {
    "Reliable": {"margin": 2.0},
    "ReliableAndNew": {"margin": 2.0, "similarity": 2.0},
    "ReliableByShape": {"margin": 2.0, "drop": -1.0},
}
"""By selection, thresholds that keep every image: with random weights none would be certain."""


@dataclass
class Options:
    """Time each method's adapter against a plain loop with the same passes."""

    methods: tuple[str, ...] = WITH_STEPS
    model: str = "acclimate:resnet14-w32"
    """Classifier; ttt takes acclimate:preact26, and ttt-mae and foa acclimate:vit6-w192-p4."""
    batch: int = 128
    alone: int = 2
    """Images for methods that adapt to each image alone."""
    steps: int = 3
    """Largest number of steps; a method whose published number is smaller takes that."""
    size: int = 32
    """Side of the images, in pixels."""
    pairs: int = 5
    """Number of pairs of measurements: the adapter, then the plain loop."""
    threads: int | None = None
    """Threads of PyTorch; None is its default."""
    parts: bool = True
    """Also time bare passes of cta-paper in float32, with and without channels_last, and of
    acclimate without statistics of classes."""
    seed: int = 0
    out: Path | None = None
    """A JSON file."""


def settings_of(name: str, options: Options) -> AdapterSettings:
    """A method's own, shortened; without the prior, which batch norm in training mode lacks.

    Random weights may not survive the published learning rate when nothing is ever reset.
    """
    settings = METHODS[name].settings
    steps = min(settings.steps, options.steps)
    settings = replace(settings, steps=steps, seed=options.seed)
    if kind(settings.normalisation) == "BatchStatistics":
        settings = replace(settings, normalisation=BatchStatistics(prior=0.0))
    thresholds = EVERY_IMAGE.get(kind(settings.selection), {})
    settings = changed(settings, {f"selection.{name}": x for name, x in thresholds.items()})
    return rated(settings, 1e-6)


def rated(settings: AdapterSettings, rate: float, **changes: Any) -> AdapterSettings:
    """Settings with another learning rate, where there is one, and other changes."""
    if hasattr(settings.update, "learning_rate"):
        changes["update.learning_rate"] = rate
    return changed(settings, changes)


def adapter(bundle: Bundle, name: str, settings: AdapterSettings) -> Adapter:
    """With one learner, as the bare passes: several at once are `one_by_one.py`'s matter."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = Adapter(bundle, name, settings, device="cpu")
    torch.set_num_threads(threads)
    return made


def bundle_for(name: str, options: Options) -> Bundle:
    """A bundle with random weights, and the statistics of random images that a method needs."""
    row = METHODS[name]
    model = {"ttt": "acclimate:preact26"}.get(row.recipe, options.model)
    model = TRANSFORMER if needs_transformer(row) else model
    bundle = random_bundle(model, row.recipe, options.size, options.seed)
    if not row.settings.source_statistics:
        return bundle
    images = torch.randint(0, 256, (256, 3, options.size, options.size), dtype=torch.uint8)
    return measure(bundle, images)


def measured(name: str, options: Options) -> dict:
    """Check one method, then time it."""
    bundle, settings = bundle_for(name, options), settings_of(name, options)
    count = options.alone if settings.one_by_one else options.batch
    images = torch.randint(0, 256, (count, 3, options.size, options.size), dtype=torch.uint8)
    check_equal(bundle, name, settings, images)
    precision = resolve("auto", torch.device("cpu"))
    made = adapter(bundle, name, settings)
    settings = made.settings  # with what the bundle gives
    runs: dict[str, Any] = {"adapter": made, "bare": Bare(bundle, name, settings, precision)}
    if options.parts and name == "cta-paper":
        last, first = torch.channels_last, torch.contiguous_format
        runs["bare, float32 contiguous"] = Bare(bundle, name, settings, "fp32", first)
        runs["bare, float32 channels_last"] = Bare(bundle, name, settings, "fp32", last)
    if options.parts and kind(settings.normalisation) == "ClassBalanced":
        runs["bare, no statistics"] = Bare(bundle, name, settings, precision, statistics=False)
    timed = {label: lambda number, run=run: run(images) for label, run in runs.items()}
    seconds = alternate(timed, options.pairs, clock_of(torch.get_num_threads()))
    if runs["adapter"].refused:
        raise SystemExit("the adapter refused steps, which the bare passes do not")
    ratios = {label: ratio(seconds, label, "bare") for label in seconds}
    for label, times in seconds.items():
        print(f"{name + ': ' + label:40} {median(times):8.3f}  {describe(ratios[label])}")
    return {
        "method": name,
        "steps": settings.steps,
        "images": count,
        "precision": precision,
        "seconds": seconds,
        "ratio_over_bare": ratios,
    }


def check_equal(bundle: Bundle, name: str, settings: AdapterSettings, images: Tensor) -> None:
    """Both must do the same work: in float32, with steps that show, their answers are the same.

    Where a batch is answered for before its steps, these show in the next batch's answer.
    """
    visible = 1e-2 if hasattr(settings.update, "momentum") else 1e-3
    moving = rated(settings, visible, precision="fp32")
    still = rated(settings, 0.0, precision="fp32")
    if not hasattr(settings.update, "learning_rate"):
        still = changed(still, {"steps": 0})
    made = adapter(bundle, name, moving)
    runs = made, Bare(bundle, name, made.settings, "fp32"), adapter(bundle, name, still)
    batches = [images.roll(number, -1) for number in range(3)]
    wanted, found, before = (torch.stack([run(batch) for batch in batches]) for run in runs)
    difference, moved = ((x - wanted).abs().max().item() for x in (found, before))
    print(f"{name}: logits differ by {difference:.1e}, the steps moved them by {moved:.1e}")
    if not difference < 0.05 * moved:
        raise SystemExit("the adapter and the bare passes do not compute the same")


def main(options: Options) -> None:
    """Each method in turn."""
    keep_freed_memory()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    print(f"{'':40} {'seconds':>8}  over bare")
    rows = [measured(name, options) for name in options.methods]
    print(f"target: adapter over bare <= {TARGET}")
    names = ("model", "batch", "alone", "steps", "size", "pairs")
    result = {
        "benchmark": "hot_path",
        "target": TARGET,
        "settings": {name: getattr(options, name) for name in names},
        "rows": rows,
    }
    finish(result, options.seed, options.out)


if __name__ == "__main__":
    start(main, Options)
