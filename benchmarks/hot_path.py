"""What an adapted batch costs above the bare passes, for each method; what bf16's part in it is."""

import copy
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import alternate, describe, random_bundle, ratio
from torch import Tensor

from acclimate.adapt import Adapter
from acclimate.backbones import to_the_end
from acclimate.bundle import Bundle
from acclimate.commands.script import finish, start
from acclimate.methods import METHODS, AdapterSettings, changed
from acclimate.objectives import as_outcome
from acclimate.parts.normalisation import BatchStatistics, RunningStatistics
from acclimate.parts.update import SGD, select_parameters
from acclimate.randomness import key
from acclimate.runtime.memory import keep_freed_memory
from acclimate.runtime.precision import Precision, resolve

TARGET = 1.05
WITH_STEPS = tuple(name for name, row in METHODS.items() if row.objective and not row.transformer)
MODELS = {"ttt": "acclimate:preact26", "ttt-mae": "acclimate:vit6-w192-p4"}
"""By recipe, where a method asks for another model."""


@dataclass
class Options:
    """Time each method's adapter against a plain loop with the same passes."""

    methods: tuple[str, ...] = WITH_STEPS
    model: str = "acclimate:resnet14-w32"
    """Classifier; ttt takes acclimate:preact26 and ttt-mae takes acclimate:vit6-w192-p4 instead."""
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
    """Also time cta-paper's bare passes in float32, with and without channels_last."""
    seed: int = 0
    out: Path | None = None
    """A JSON file."""


class Bare:
    """Adapt and answer as one would write it by hand for one method: no checks, no choices.

    Args:
        bundle: The bundle, as the adapter takes it.
        name: A method with gradient steps.
        settings: Settings of the adapter; ``prior`` is assumed to be 0.
        precision: bf16 or fp32.
        layout: Memory format of weights and images.
        device: Where to run.
    """

    def __init__(
        self,
        bundle: Bundle,
        name: str,
        settings: AdapterSettings,
        precision: Precision,
        layout: torch.memory_format = torch.channels_last,
        device: str = "cpu",
    ):
        self.settings, self.layout, self.device = settings, layout, device
        self.bf16 = precision == "bf16"
        row, preprocessing = METHODS[name], bundle.preprocessing
        model = bundle.twin if row.model == "twin" else bundle.classifier
        own = copy.deepcopy(model).to(device)
        self.model = own.to(memory_format=layout).requires_grad_(False).eval()
        objective = settings.objective.build(model, preprocessing, bundle.objective)
        self.objective = objective.requires_grad_(False).eval().to(device)
        self.mean, self.std = (
            torch.tensor(x, device=device)[:, None, None]
            for x in (preprocessing.mean, preprocessing.std)
        )
        self.norms_learn = settings.normalisation.uses_batch
        self.seen = 0
        self._prepare(2, preprocessing.size)

    def _prepare(self, count: int, size: int) -> None:
        """What moves: the parameters that a gradient reaches; then what to go back to."""
        update = self.settings.update
        chosen = list(select_parameters(self.model.encoder, update.parameters).values())
        if update.auxiliary:
            chosen += self.objective.requires_grad_().parameters()
        state = [*self.model.encoder.buffers(), *self.objective.buffers()]
        before = [tensor.clone() for tensor in state]
        images = torch.rand(count, 3, size, size, device=self.device)
        self._loss(images, torch.arange(count, device=self.device), 0).backward()
        for tensor, value in zip(state, before):
            tensor.copy_(value)
        moving = [parameter for parameter in chosen if parameter.grad is not None]
        for parameter in chosen:
            parameter.requires_grad_(parameter.grad is not None).grad = None
        if isinstance(update, SGD):
            self.optimizer = torch.optim.SGD(
                moving, update.learning_rate, momentum=update.momentum, fused=True
            )
        else:
            self.optimizer = torch.optim.Adam(
                moving, update.learning_rate, fused=True, capturable=self.device == "cuda"
            )
        self.state = [p.detach() for p in moving] + state
        self.source = [tensor.clone() for tensor in self.state]

    def __call__(self, images: Tensor) -> Tensor:
        """The logits, of one image after another where the method learns so."""
        images = images.float() / 255
        index = torch.arange(self.seen, self.seen + len(images), device=self.device)
        self.seen += len(images)
        if not self.settings.one_by_one:
            return self._episode(images, index)
        pairs = zip(images.split(1), index.split(1))
        return torch.cat([self._episode(image, number) for image, number in pairs])

    def _episode(self, images: Tensor, index: Tensor) -> Tensor:
        if self.settings.reset.always:
            torch._foreach_copy_(self.state, self.source)
            for value in self.optimizer.state.values():
                torch._foreach_zero_([x for x in value.values() if x is not None])
        for step in range(self.settings.steps):
            self._loss(images, index, step).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        # In training mode batch norm normalises by the batch's own statistics.
        self.model.train(isinstance(self.settings.normalisation, BatchStatistics))
        with torch.no_grad(), torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            return self.model(self._normalize(images)).float()

    def _loss(self, images: Tensor, index: Tensor, step: int) -> Tensor:
        self.model.train(self.norms_learn)
        self.objective.train(self.norms_learn)
        for name in self.objective.keeps_source:
            self.objective.get_submodule(name).eval()
        views, *rest = self.objective.draw(images, key(self.settings.seed, "adapt", step), index)
        running = isinstance(self.settings.normalisation, RunningStatistics)
        whole = to_the_end() if running else nullcontext()
        with whole, torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            outcome = as_outcome(self.objective(self.model, self._normalize(views), *rest))
            return outcome.losses.mean()

    def _normalize(self, images: Tensor) -> Tensor:
        return ((images - self.mean) / self.std).contiguous(memory_format=self.layout)


def settings_of(name: str, options: Options) -> AdapterSettings:
    """A method's own, shortened; without the prior, which batch norm in training mode lacks.

    Random weights may not survive the published learning rate when nothing is ever reset.
    """
    settings = METHODS[name].settings
    steps = min(settings.steps, options.steps)
    settings = replace(settings, steps=steps, seed=options.seed)
    if isinstance(settings.normalisation, BatchStatistics):
        settings = replace(settings, normalisation=BatchStatistics(prior=0.0))
    return changed(settings, {"update.learning_rate": 1e-6}) if settings.update else settings


def adapter(bundle: Bundle, name: str, settings: AdapterSettings) -> Adapter:
    """With one learner, as the bare passes: several at once are `one_by_one.py`'s matter."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = Adapter(bundle, name, settings, device="cpu")
    torch.set_num_threads(threads)
    return made


def measured(name: str, options: Options) -> dict:
    """Check one method, then time it."""
    row = METHODS[name]
    model = MODELS.get(row.recipe, options.model)
    bundle = random_bundle(model, row.recipe, options.size, options.seed)
    settings = settings_of(name, options)
    count = options.alone if settings.one_by_one else options.batch
    images = torch.randint(0, 256, (count, 3, options.size, options.size), dtype=torch.uint8)
    check_equal(bundle, name, settings, images)
    precision = resolve("auto", torch.device("cpu"))
    last, first = torch.channels_last, torch.contiguous_format
    runs: dict[str, Any] = {
        "adapter": adapter(bundle, name, settings),
        "bare": Bare(bundle, name, settings, precision),
    }
    if options.parts and name == "cta-paper":
        runs["bare, float32 contiguous"] = Bare(bundle, name, settings, "fp32", first)
        runs["bare, float32 channels_last"] = Bare(bundle, name, settings, "fp32", last)
    seconds = alternate(
        {label: lambda number, run=run: run(images) for label, run in runs.items()}, options.pairs
    )
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
    """Both must do the same work: in float32, with steps that show, their answers are the same."""
    visible = 1e-2 if isinstance(settings.update, SGD) else 1e-3
    settings = changed(settings, {"update.learning_rate": visible, "precision": "fp32"})
    before, *_, after = adapter(bundle, name, settings).trace(images)
    found = Bare(bundle, name, settings, "fp32")(images)
    difference, moved = ((x - after).abs().max().item() for x in (found, before))
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
