"""The bundles of the studies: one per recipe, all trained with the same budget."""

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
"""Recipe of a classifier without an objective, and the name of its stage."""
CLASSIFIER = f"{PLAIN}.safetensors"
FOUR = ("gaussian_noise", "defocus_blur", "fog", "pixelate")
"""One corruption of each kind, for studies that measure only a few."""


@dataclass(frozen=True)
class Trained:
    """Data, and the folder with the bundles that methods.py trained."""

    data: str
    """Labelled data set: a name, or a folder or zip of split/class/image."""
    out: Path
    """Folder where methods.py trains bundles; measurements are written there too."""
    workers: int = 2
    """Number of processes, each with one thread."""


@dataclass(frozen=True)
class Budget(Trained):
    """Training budget, equal for all bundles."""

    model: str = "acclimate:resnet8-w16"
    """Classifier of all methods except those that need a transformer."""
    epochs: int = 5
    """Epochs of each stage."""
    train_images: int = 50_000
    """Number of source images, evenly spaced."""


class Job(NamedTuple):
    """A bundle to train."""

    recipe: str
    model: str
    target: tuple[str, int, int] | None = None
    """Corruption, number of test images and seed of an oracle."""

    @property
    def label(self) -> str:
        """The bundle's name."""
        return f"{self.recipe}-{self.target[0]}" if self.target else self.recipe

    def __str__(self) -> str:
        return self.label


def settings(epochs: int) -> SourceSettings:
    """Settings of all stages. The learning rates follow from batches of 128; none was tuned."""
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
        job: Function of a module, so that processes can import it.
        tasks: Values that can be pickled and hashed.
        workers: Number of processes.
        title: Title of the progress bar.

    Raises:
        InputError: there is no task, workers is below 1, or a task failed.
    """
    if not tasks:
        raise InputError(f"{title}: there is nothing to do; name more.")
    results: dict[Task, Result] = {}
    with closing(processes(workers)(job, tasks)) as outcomes, live() as progress:
        for task, outcome in outcomes:
            if isinstance(outcome, Failure):
                raise InputError(f"{title}: {task} failed: {outcome.reason}")
            results[task] = outcome
            progress(title, len(results), len(tasks), str(task))
    return [results[task] for task in tasks]


def train_all(budget: Budget, jobs: Sequence[Job]) -> None:
    """Train all bundles that do not exist yet.

    The plain classifier is trained first, because several recipes start from it.

    Raises:
        InputError: an existing bundle was trained with another budget.
    """
    plain = Job(PLAIN, budget.model)
    first = [plain] if any(begins_plain(job.recipe) for job in jobs) else []
    for group in (first, [job for job in jobs if job not in first]):
        if group:
            in_processes(partial(make, budget), group, budget.workers, "bundles")


def begins_plain(recipe: str) -> bool:
    """Whether a recipe starts with the same stage as the plain classifier, bit for bit."""
    row, plain = RECIPES[recipe], RECIPES[PLAIN]
    return (row.stages[0], row.form) == (plain.stages[0], plain.form)


def make(budget: Budget, job: Job) -> None:
    """Train the bundle of a recipe. An oracle also gets the target images, without labels."""
    path, stages = (budget.out / kind / job.label for kind in ("bundles", "stages"))
    source, stage_settings, target = train_images(budget), settings(budget.epochs), None
    if job.target:
        corruption, count, seed = job.target
        target = corrupt(test_images(budget.data, count).images, corruption, 5, seed=seed)
    if was_made(path, job.model, stage_settings, source.images, target):
        return
    trained, copied = budget.out / "stages" / PLAIN / CLASSIFIER, stages / CLASSIFIER
    if begins_plain(job.recipe) and trained.exists() and not copied.exists():
        write_atomically(copied, partial(shutil.copyfile, trained))
    name = next(name for name, row in METHODS.items() if row.recipe == job.recipe)
    started = time.perf_counter()
    with live() as progress:
        run = Run(0, stages, progress=progress)
        train(name, job.model, source, stage_settings, run, target=target).save(path)
    print(f"{job.label}: trained in {time.perf_counter() - started:.0f} s", flush=True)


def was_made(
    path: Path,
    model: str,
    settings: SourceSettings,
    source: Tensor,
    target: Tensor | None = None,
) -> bool:
    """Whether a bundle exists already.

    Raises:
        InputError: the bundle has another architecture, or was trained with other settings or on
            another number of images.
    """
    if not path.exists():
        return False
    record = read_record(path)
    recorded = record["provenance"] | {"architecture": record["architecture"]}
    expected = {"architecture": model, "settings": asdict(settings), "images": len(source)}
    if target is not None:
        expected["target_images"] = len(target)
    for name, value in json.loads(json.dumps(expected)).items():
        if recorded.get(name, value) != value:
            label = name.replace("_", " ")
            raise InputError(f"{path} was trained with other {label}; choose another --out.")
    return True
