"""What learning from several images at the same time is worth: TTT's images, a thread each."""

import copy
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from common import alternate, describe, random_bundle, ratio
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from acclimate.adapt import Adapter
from acclimate.bundle import Bundle
from acclimate.commands.script import finish, start
from acclimate.methods import METHODS
from acclimate.randomness import key
from acclimate.runtime.memory import keep_freed_memory
from acclimate.runtime.precision import autocast

TOLERANCE = 1e-4
"""Largest difference of float32 logits."""
TARGET = 1.15


@dataclass
class Options:
    """Time TTT on many images at once against one image after another."""

    model: str = "acclimate:preact26"
    images: tuple[int, ...] = (8, 32, 128)
    """How many come together."""
    vmap_images: int = 8
    """For how many of them a loop over vmap is timed too; 0 is not."""
    steps: int = 10
    size: int = 32
    """Side of the images, in pixels."""
    pairs: int = 3
    """Rounds of A B."""
    threads: int | None = None
    """None takes torch's default."""
    precision: tuple[Literal["bf16", "fp32"], ...] = ("bf16", "fp32")
    seed: int = 0
    out: Path | None = None
    """A JSON file."""


def adapters(bundle: Bundle, precision: str, options: Options) -> dict[str, Adapter]:
    """One that learns from as many images at once as there are threads, and one that does not.

    An adapter has a learner for each thread that torch has when it is made.
    """
    settings = {"steps": options.steps, "precision": precision, "seed": options.seed}
    several = Adapter(bundle, "ttt", device="cpu", **settings)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one = Adapter(bundle, "ttt", device="cpu", **settings)
    torch.set_num_threads(threads)
    return {"at once": several, "in turn": one}


class Task(nn.Module):
    """A model and its objective as one function of one set of parameters."""

    def __init__(self, bundle: Bundle):
        super().__init__()
        self.model, self.objective = copy.deepcopy((bundle.classifier, bundle.objective))

    def forward(self, views: Tensor, turns: Tensor | None = None) -> Tensor:
        """The loss, or without turns the logits."""
        return self.model(views) if turns is None else self.objective(self.model, views, turns)


def with_vmap(bundle: Bundle, precision: str, options: Options):
    """The same without threads: all images' own weights stacked, each kernel called once."""
    task = Task(bundle)
    weights, rate = dict(task.named_parameters()), METHODS["ttt"].settings.update.learning_rate
    seen = 0

    def loss(weights: dict[str, Tensor], views: Tensor, turns: Tensor) -> Tensor:
        return functional_call(task, weights, (views, turns))

    def run(images: Tensor) -> Tensor:
        nonlocal seen
        images, count = bundle.preprocessing.unit(images), len(images)
        index, seen = torch.arange(seen, seen + count), seen + count
        own = {name: w.detach().expand(count, *w.shape) for name, w in weights.items()}
        with torch.no_grad(), autocast(images.device, precision):
            for step in range(options.steps):
                views, turns = task.objective.draw(images, key(options.seed, "adapt", step), index)
                views = bundle.preprocessing.normalize(views).unflatten(0, (count, -1))
                slopes = vmap(grad(loss))(own, views, turns.unflatten(0, (count, -1)))
                own = {name: w - rate * slopes[name] for name, w in own.items()}
            alone = bundle.preprocessing.normalize(images)[:, None]
            return vmap(lambda w, x: functional_call(task, w, (x,)))(own, alone)[:, 0].float()

    return run


def main(options: Options) -> None:
    """Check that all compute the same, then time them."""
    keep_freed_memory()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    bundle = random_bundle(options.model, "ttt", options.size, options.seed)
    shape = (max(options.images), 3, options.size, options.size)
    generator = torch.Generator().manual_seed(options.seed)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    check_equal(bundle, images[: max(2, options.vmap_images)], options)
    print(f"{options.model}, {options.steps} steps an image, {torch.get_num_threads()} threads")
    print(f"{'':16} {'ms a step':>9}  throughput, in turn = 1")
    rows = [
        timed(bundle, images[:count], precision, options)
        for precision in options.precision
        for count in options.images
    ]
    print(f"target: at once >= {TARGET}")
    settings = {name: getattr(options, name) for name in ("model", "steps", "size", "pairs")}
    result = {"benchmark": "one_by_one", "target": TARGET, "settings": settings, "rows": rows}
    result["threads"] = torch.get_num_threads()
    finish(result, options.seed, options.out)


def check_equal(bundle: Bundle, images: Tensor, options: Options) -> None:
    """In float32 all ways give the same logits, and these show that something was learned."""
    runs = adapters(bundle, "fp32", options)
    before, *_, expected = runs.pop("in turn").trace(images)
    if options.vmap_images:
        runs["vmap"] = with_vmap(bundle, "fp32", options)
    moved = largest(expected, before)
    print(f"largest difference of logits, which the steps moved by {moved:.1e}")
    for name, run in runs.items():
        difference = largest(run(images), expected)
        print(f"{name:16} {difference:.1e}")
        if difference > min(TOLERANCE, 0.05 * moved):
            raise SystemExit(f"{name} and in turn do not compute the same")


def largest(one: Tensor, other: Tensor) -> float:
    """The largest difference."""
    return (one - other).abs().max().item()


def timed(bundle: Bundle, images: Tensor, precision: str, options: Options) -> dict:
    """Seconds and ratios of one precision and one number of images."""
    runs = dict(adapters(bundle, precision, options))
    if len(images) == options.vmap_images:
        runs["vmap"] = with_vmap(bundle, precision, options)
    seconds = alternate(
        {name: lambda number, run=run: run(images) for name, run in runs.items()}, options.pairs
    )
    print(f"{precision}, {len(images)} images")
    ratios = {}
    for name, times in seconds.items():
        ratios[name] = ratio(seconds, "in turn", name)
        step = 1000 * median(times) / len(images) / options.steps
        print(f"{name:16} {step:9.1f}  {describe(ratios[name])}")
    return {
        "precision": precision, "images": len(images), "seconds": seconds, "throughput": ratios,
    }  # fmt: skip


if __name__ == "__main__":
    start(main, Options)
