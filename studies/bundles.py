"""The bundles of the studies: one for each recipe, all trained with one equal budget."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from torch import Tensor

from acclimate.bundle import read_record
from acclimate.data import LabelledImages, corrupt, load, subset
from acclimate.errors import InputError
from acclimate.methods import METHODS, RECIPES
from acclimate.runtime.progress import live
from acclimate.runtime.workers import Failure, processes
from acclimate.source.loop import Run, Training
from acclimate.source.presets import PRESETS, STAGES, SourceSettings
from acclimate.source.train import train
from acclimate.storage.atomic import write_atomically

Task, Result = TypeVar("Task"), TypeVar("Result")

PLAIN = "supervised"
"""The recipe of a classifier alone, and the name of its stage."""
CLASSIFIER = f"{PLAIN}.safetensors"
FOUR = ("gaussian_noise", "defocus_blur", "fog", "pixelate")
"""A corruption of each kind, for studies that measure few."""


@dataclass(frozen=True)
class Trained:
    """The bundles that methods.py trained."""

    data: str
    """A data set with labels: a name, or a folder or zip of split/class/image."""
    out: Path
    """The folder where methods.py trains; measurements go there too."""
    workers: int = 2
    """Processes, each with one thread."""


@dataclass(frozen=True)
class Budget(Trained):
    """The budget of training, equal for all bundles."""

    model: str = "acclimate:resnet8-w16"
    """The classifier of all methods but those that need a transformer."""
    epochs: int = 5
    """Epochs of each stage."""
    train_images: int = 50_000
    """Source images, evenly spaced."""


class Job(NamedTuple):
    """A bundle to make."""

    recipe: str
    model: str
    target: tuple[str, int, int] | None = None
    """For an oracle: corruption, number of test images, seed."""

    @property
    def label(self) -> str:
        """The bundle's name."""
        return f"{self.recipe}-{self.target[0]}" if self.target else self.recipe

    def __str__(self) -> str:
        return self.label


def settings(epochs: int) -> SourceSettings:
    """Settings of all stages; the learning rates follow from batches of 128, not from results."""
    labelled = Training(
        epochs, 128, "sgd", learning_rate=0.1, final_learning_rate=1e-4, weight_decay=5e-4
    )
    unlabelled = Training(epochs, 128, learning_rate=1e-3, warm_up=1)
    kinds = {"supervised": labelled, "joint": labelled}
    stages = {stage: kinds.get(stage, unlabelled) for stage in STAGES}
    return replace(PRESETS["small"], cutout=0, **stages)


def test_images(data: str, count: int) -> LabelledImages:
    """Test images, spread evenly over the set."""
    return subset(load(data, "test"), count)


def train_images(budget: Budget) -> LabelledImages:
    """Training images of the budget, spread evenly over the set."""
    return subset(load(budget.data, "train"), budget.train_images)


def in_processes(
    job: Callable[[Task], Result], tasks: Sequence[Task], workers: int, title: str
) -> list[Result]:
    """Results of a job for each task, in the tasks' order, from processes of one thread.

    Args:
        job: A function of a module, for processes to find it.
        tasks: Values that can be pickled and hashed.
        workers: Number of processes.
        title: Name of the work, for the progress bar.

    Raises:
        InputError: there is no task, no process to do it, or a task failed.
    """
    if not tasks:
        raise InputError(f"{title}: there is nothing to do; name more.")
    found: dict[Task, Result] = {}
    with closing(processes(workers)(job, tasks)) as outcomes, live() as progress:
        for task, outcome in outcomes:
            if isinstance(outcome, Failure):
                raise InputError(f"{title}: {task} failed: {outcome.reason}")
            found[task] = outcome
            progress(title, len(found), len(tasks), str(task))
    return [found[task] for task in tasks]


def train_all(budget: Budget, jobs: Sequence[Job]) -> None:
    """Train all bundles that are not there.

    The plain classifier comes first, with which several of the others begin.

    Raises:
        InputError: a bundle that is there is of another budget.
    """
    plain = Job(PLAIN, budget.model)
    first = [plain] if any(begins_plain(job.recipe) for job in jobs) else []
    for some in (first, [job for job in jobs if job not in first]):
        if some:
            in_processes(partial(make, budget), some, budget.workers, "bundles")


def begins_plain(recipe: str) -> bool:
    """Whether a recipe begins with the plain classifier's stage, bit for bit."""
    row, plain = RECIPES[recipe], RECIPES[PLAIN]
    return (row.stages[0], row.form) == (plain.stages[0], plain.form)


def make(budget: Budget, job: Job) -> None:
    """Train the bundle of a recipe; an oracle is shown the target images, without labels."""
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
        InputError: the bundle is of another network, or was trained with other settings or on
            another number of images.
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
