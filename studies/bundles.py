"""The bundles that benchmarks measure: a recipe each, at one equal budget, and who trains them."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from acclimate.bundle import read_record
from acclimate.data import LabelledImages, corrupt, load, subset
from acclimate.errors import InputError
from acclimate.evaluate.engines import end_with_parent
from acclimate.methods import METHODS, RECIPES
from acclimate.runtime.determinism import repeat_bits
from acclimate.runtime.memory import keep_freed_memory
from acclimate.runtime.progress import live
from acclimate.source.loop import Run, Training
from acclimate.source.presets import PRESETS, STAGES, SourceSettings
from acclimate.source.train import train
from acclimate.storage.atomic import write_atomically

Task, Result = TypeVar("Task"), TypeVar("Result")

PLAIN = "supervised"
"""The recipe of a classifier alone, and its stage."""
CLASSIFIER = f"{PLAIN}.safetensors"
FOUR = ("gaussian_noise", "defocus_blur", "fog", "pixelate")
"""A corruption of each kind, for what is measured on few."""


@dataclass(frozen=True)
class Trained:
    """The bundles that methods.py trained."""

    data: str
    """A data set with labels: a name, or a folder or zip of split/class/image."""
    out: Path
    """Where methods.py trains; measurements go there too."""
    workers: int = 2
    """Processes of one thread each."""


@dataclass(frozen=True)
class Budget(Trained):
    """What bundles are trained with, equal for all."""

    model: str = "acclimate:resnet8-w16"
    """The classifier of all methods but those that need a transformer."""
    epochs: int = 5
    """Of every stage."""
    train_images: int = 50_000
    """Source images, evenly spaced."""


class Job(NamedTuple):
    """A bundle to make."""

    recipe: str
    model: str
    target: tuple[str, int, int] | None = None
    """Of an oracle: corruption, number of test images, seed."""

    @property
    def label(self) -> str:
        """The bundle's name."""
        return f"{self.recipe}-{self.target[0]}" if self.target else self.recipe


def settings(epochs: int) -> SourceSettings:
    """One budget for all; the rates follow from batches of 128, not from any result."""
    labelled = Training(
        epochs, 128, "sgd", learning_rate=0.1, final_learning_rate=1e-4, weight_decay=5e-4
    )
    unlabelled = Training(epochs, 128, learning_rate=1e-3, warm_up=1)
    kinds = {"supervised": labelled, "joint": labelled}
    stages = {stage: kinds.get(stage, unlabelled) for stage in STAGES}
    return replace(PRESETS["small"], cutout=0, **stages)


def test_images(data: str, count: int) -> LabelledImages:
    """So many test images, spread evenly over the set."""
    return subset(load(data, "test"), count)


def train_images(budget: Budget) -> LabelledImages:
    """So many training images, spread evenly over the set."""
    return subset(load(budget.data, "train"), budget.train_images)


def in_processes(
    job: Callable[[Task], Result], tasks: Sequence[Task], workers: int, title: str
) -> list[Result]:
    """What a job makes of each task, in their order; processes of one thread, with progress.

    Raises:
        InputError: no task, or no process to do it.
    """
    if not tasks:
        raise InputError(f"{title}: there is nothing to do; name more.")
    found: list[Result] = []
    with pool_of(workers) as pool, live() as progress:
        for task, result in zip(tasks, pool.map(job, tasks)):
            found.append(result)
            progress(title, len(found), len(tasks), str(task))
    return found


def pool_of(workers: int) -> ProcessPoolExecutor:
    """Processes of one thread each."""
    if workers < 1:
        raise InputError(f"--workers must be at least 1, not {workers}.")
    return ProcessPoolExecutor(workers, get_context("spawn"), alone)


def alone() -> None:
    """Prepare a process that works with others beside it."""
    end_with_parent()
    repeat_bits()
    torch.set_num_threads(1)


def train_all(budget: Budget, jobs: Sequence[Job]) -> None:
    """All bundles that are not there, in as many processes as measure later.

    First the plain classifier, with which several of the others begin.

    Raises:
        InputError: a bundle that is there is of another budget.
    """
    plain = Job(PLAIN, budget.model)
    with pool_of(budget.workers) as pool:
        if any(begins_plain(job.recipe) for job in jobs):
            pool.submit(make, budget, plain).result()
        list(pool.map(partial(make, budget), [job for job in jobs if job != plain]))


def begins_plain(recipe: str) -> bool:
    """Whether a recipe's first stage is the plain classifier's, bit for bit."""
    row, plain = RECIPES[recipe], RECIPES[PLAIN]
    return (row.stages[0], row.form) == (plain.stages[0], plain.form)


def make(budget: Budget, job: Job) -> None:
    """Train a recipe's bundle; an oracle is shown the target images, without labels."""
    keep_freed_memory()
    path, stages = (budget.out / kind / job.label for kind in ("bundles", "stages"))
    source, chosen, target = train_images(budget), settings(budget.epochs), None
    if job.target:
        corruption, count, seed = job.target
        target = corrupt(test_images(budget.data, count).images, corruption, 5, seed=seed)
    if was_made(path, job.model, chosen, source.images, target):
        return
    trained, copied = budget.out / "stages" / PLAIN / CLASSIFIER, stages / CLASSIFIER
    if begins_plain(job.recipe) and trained.exists() and not copied.exists():
        write_atomically(copied, partial(shutil.copyfile, trained))
    name = next(name for name, row in METHODS.items() if row.recipe == job.recipe)
    started = time.perf_counter()
    with live() as progress:
        run = Run(0, stages, progress=progress)
        train(name, job.model, source, chosen, run, target=target).save(path)
    print(f"{job.label}: trained in {time.perf_counter() - started:.0f} s", flush=True)


def was_made(
    path: Path,
    model: str,
    settings: SourceSettings,
    source: Tensor,
    target: Tensor | None = None,
) -> bool:
    """Whether a bundle is there.

    Raises:
        InputError: it is another network's, or was trained with other settings, or on another
            number of images.
    """
    if not path.exists():
        return False
    record = read_record(path)
    made = record["provenance"] | {"architecture": record["architecture"]}
    wanted = {"architecture": model, "settings": asdict(settings), "images": len(source)}
    if target is not None:
        wanted["target_images"] = len(target)
    for name, value in json.loads(json.dumps(wanted)).items():
        if made.get(name, value) != value:
            told = name.replace("_", " ")
            raise InputError(f"{path} was trained with other {told}; choose another --out.")
    return True
