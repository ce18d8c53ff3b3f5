"""Every method on one data set at one equal source budget, with nothing tuned on it.

    python benchmarks/methods.py --data cifar10.zip --out runs/methods --results results/methods

DATA is a folder or zip of ``train/class/image`` and ``test/class/image``. A bundle is trained for
each recipe, all stages for the same number of epochs; then each method adapts to the same images
(`acclimate.evaluate.bench`). Beside it stand its own bundle without adapting, and with batch norm's
statistics alone, for these explain most of what most methods gain. Killed, it resumes;
``--plan`` says how long the measuring takes, once the bundles are there.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch
from common import start, told

from acclimate import machine
from acclimate.commands.bench import show_plan, show_results
from acclimate.data import LabelledImages, corrupt, load, subset
from acclimate.evaluate.bench import MANIFEST, RESULTS, Bench, plan, run_bench
from acclimate.evaluate.engines import end_with_parent, processes
from acclimate.evaluate.measure import LR0
from acclimate.evaluate.task import Grid
from acclimate.files import write_atomically, write_text
from acclimate.memory import keep_freed_memory
from acclimate.methods import METHODS, RECIPES
from acclimate.progress import live
from acclimate.source.loop import Run, Training
from acclimate.source.presets import PRESETS, STAGES, SourceSettings
from acclimate.source.train import train

Task, Result = TypeVar("Task"), TypeVar("Result")

PLAIN = "supervised"
"""The recipe of a classifier alone, and its stage."""
CLASSIFIER = f"{PLAIN}.safetensors"
ORACLE = next(row.recipe for row in METHODS.values() if row.oracle)
SINGLE = [
    name
    for name, row in METHODS.items()
    if row.settings.one_by_one and row.settings.reset == "batch"
]
"""They learn from each image alone, many steps: measured on fewer."""


@dataclass(frozen=True)
class Arguments:
    """What to run on, and where to write."""

    data: str
    """A data set as a folder or zip of split/class/image."""
    out: Path
    """Bundles, checkpoints and measurements."""
    results: Path | None = None
    """Where results.csv, the manifest and the settings are copied."""
    model: str = "acclimate:resnet8-w16"
    """The classifier of all methods but those that need a transformer."""
    transformer: str = "acclimate:vit6-w192-p4"
    """The classifier of ttt-mae."""
    epochs: int = 5
    """Of every stage."""
    train_images: int = 50_000
    """Source images, evenly spaced."""
    images: int = 500
    """Test images under each corruption, evenly spaced."""
    single_images: int = 200
    """The same for ttt, which learns from each image alone."""
    transformer_images: int = 60
    """The same for ttt-mae, which does so 20 times with 128 masks: 5 s an image on a core."""
    corruptions: tuple[str, ...] = ("gaussian_noise", "defocus_blur", "fog", "pixelate")
    """At severity 5; clean images besides."""
    oracle_corruptions: int = 1
    """An oracle is trained anew for each: only for so many, and not for clean images."""
    recipes: tuple[str, ...] = tuple(RECIPES)
    """Which bundles to make."""
    seeds: tuple[int, ...] = (0,)
    """Of order, corruption and views at deployment; training has seed 0. Methods that learn from
    each image alone take the first."""
    controls: bool = False
    """Also measure batch methods at learning rate 0: what moving statistics do without steps."""
    workers: int = 2
    """Processes of one thread each."""
    train_only: bool = False
    """Stop when the bundles are made."""
    plan: bool = False
    """Only say what would be measured and how long it takes."""


@dataclass(frozen=True)
class Trained:
    """The bundles that this trained, to look at them further."""

    data: str
    """As for methods.py."""
    out: Path
    """Where methods.py trained; measurements go there too."""
    workers: int = 2
    """Processes of one thread each."""


def settings(epochs: int) -> SourceSettings:
    """One budget for all; the rates follow from batches of 128, not from any result."""
    labelled = Training(
        epochs, 128, "sgd", learning_rate=0.1, final_learning_rate=1e-4, weight_decay=5e-4
    )
    unlabelled = Training(epochs, 128, learning_rate=1e-3, warm_up=1)
    kinds = {"supervised": labelled, "joint": labelled}
    stages = {stage: kinds.get(stage, unlabelled) for stage in STAGES}
    return replace(PRESETS["small"], cutout=0, **stages)


def main(arguments: Arguments) -> None:
    """Train, measure, write."""
    train_all(arguments)
    if arguments.train_only:
        return
    out = arguments.out / "grid"
    run_all(benches(arguments), out, workers=arguments.workers, only_plan=arguments.plan)
    if arguments.results and not arguments.plan:
        arguments.results.mkdir(parents=True, exist_ok=True)
        for name in (RESULTS, MANIFEST):
            shutil.copyfile(out / name, arguments.results / name)
        record = {
            "data": Path(arguments.data).name,
            "arguments": told(arguments),
            "stages": asdict(settings(arguments.epochs)),
            "machine": machine.describe(),
        }
        write_text(arguments.results / "settings.json", json.dumps(record, indent=2) + "\n")


def run_all(found: Iterable[Bench], out: Path, *, workers: int, only_plan: bool) -> None:
    """Run one bench after the other into a folder, or only say how long each takes."""
    engine = processes(workers)
    for bench in found:
        with live() as progress:
            if only_plan:
                show_plan(plan(bench, out, engine=engine, progress=progress), workers)
            else:
                show_results(*run_bench(bench, out, engine=engine, progress=progress))


def benches(arguments: Arguments) -> Iterator[Bench]:
    """Batch methods on all bundles; then those of single images and the oracle, on less."""
    whole = Grid(("none", *arguments.corruptions), seeds=arguments.seeds)
    first = replace(whole, seeds=arguments.seeds[:1])
    bundles = {name: arguments.out / "bundles" / name for name in arguments.recipes}
    plain = {name: path for name, path in bundles.items() if name != ORACLE}
    convolutional = {n: path for n, path in plain.items() if not RECIPES[n].transformer}
    batch = tuple(
        name for name, row in METHODS.items() if row.recipe in convolutional and name not in SINGLE
    )
    if arguments.controls:
        batch += tuple(name + LR0 for name in batch if METHODS[name].settings.steps)
    if convolutional:
        grid = replace(whole, methods=batch)
        yield Bench(grid, convolutional, partial(test_images, arguments.data, arguments.images))
    for name in SINGLE:
        recipe = METHODS[name].recipe
        if recipe in plain:
            transformer = RECIPES[recipe].transformer
            count = arguments.transformer_images if transformer else arguments.single_images
            frozen = ("source",) if transformer else ("source", "ptbn")
            alike = (other for other, row in METHODS.items() if row.recipe == recipe)
            grid = replace(first, methods=(*frozen, *alike))
            yield Bench(grid, {recipe: plain[recipe]}, partial(test_images, arguments.data, count))
    if ORACLE in bundles:
        for name in arguments.corruptions[: arguments.oracle_corruptions]:
            path = arguments.out / "bundles" / f"{ORACLE}-{name}"
            grid = replace(whole, corruptions=(name,), methods=("source", "ptbn", "uda-ss"))
            load = partial(test_images, arguments.data, arguments.images)
            yield Bench(grid, {path.name: path}, load)


def test_images(data: str, count: int) -> LabelledImages:
    """So many test images, spread evenly over the set."""
    return subset(load(data, "test"), count)


def train_all(arguments: Arguments) -> None:
    """All bundles that are not there, in as many processes as measure later.

    First the plain classifier, with which several of the others begin.
    """
    jobs = [(name, "") for name in arguments.recipes if name not in (PLAIN, ORACLE)]
    if ORACLE in arguments.recipes:
        jobs += [(ORACLE, name) for name in arguments.corruptions[: arguments.oracle_corruptions]]
    with ProcessPoolExecutor(arguments.workers, get_context("spawn"), alone) as pool:
        if any(map(begins_plain, arguments.recipes)):
            pool.submit(make, arguments, (PLAIN, "")).result()
        list(pool.map(partial(make, arguments), jobs))


def in_processes(
    job: Callable[[Task], Result], tasks: Sequence[Task], workers: int, title: str
) -> list[Result]:
    """What a job makes of each task, in their order; processes of one thread, with progress."""
    found: list[Result] = []
    with (
        ProcessPoolExecutor(workers, get_context("spawn"), alone) as pool,
        live() as progress,
    ):
        for task, result in zip(tasks, pool.map(job, tasks)):
            found.append(result)
            progress(title, len(found), len(tasks), str(task))
    return found


def alone() -> None:
    """Prepare a process that trains."""
    end_with_parent()
    torch.set_num_threads(1)


def begins_plain(recipe: str) -> bool:
    """Whether a recipe's first stage is the plain classifier's, bit for bit."""
    row, plain = RECIPES[recipe], RECIPES[PLAIN]
    return (row.stages[0], row.form) == (plain.stages[0], plain.form)


def make(arguments: Arguments, job: tuple[str, str]) -> None:
    """Train a recipe's bundle; an oracle is shown the target images, without labels."""
    keep_freed_memory()
    recipe, corruption = job
    label = f"{recipe}-{corruption}" if corruption else recipe
    path = arguments.out / "bundles" / label
    if path.exists():
        return
    name = next(name for name, row in METHODS.items() if row.recipe == recipe)
    target = None
    if corruption:
        test = test_images(arguments.data, arguments.images)
        target = corrupt(test.images, corruption, 5, seed=0)
    stages = arguments.out / "stages" / label
    trained, copied = (folder / CLASSIFIER for folder in (arguments.out / "stages" / PLAIN, stages))
    if begins_plain(recipe) and trained.exists() and not copied.exists():
        write_atomically(copied, partial(shutil.copyfile, trained))
    started = time.perf_counter()
    with live() as progress:
        bundle = train(
            name,
            arguments.transformer if RECIPES[recipe].transformer else arguments.model,
            subset(load(arguments.data, "train"), arguments.train_images),
            settings(arguments.epochs),
            Run(0, stages, progress=progress),
            target=target,
        )
    bundle.save(path)
    print(f"{label}: trained in {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    start(main, Arguments)
