"""A study in one folder: train a bundle, run a grid, write the report. It can be resumed."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from acclimate.bundle import Bundle
from acclimate.data import LabelledImages, subset
from acclimate.errors import InputError
from acclimate.evaluate.cell import CLEAN
from acclimate.evaluate.grid_run import GridRun, run_grid
from acclimate.evaluate.store import Measured
from acclimate.evaluate.task import Grid
from acclimate.guard.measure import can_be_measured, measure_guard
from acclimate.report.comparison import Comparison, compare
from acclimate.report.gains import STEPPING, parts_of
from acclimate.report.grid import PAGE, report_grid
from acclimate.report.measured import by_protocol, held_out_of, read_grid, reported
from acclimate.report.picture import result_picture
from acclimate.report.samples import samples_of
from acclimate.report.table import show_table
from acclimate.report.warnings import warnings_of
from acclimate.runtime.progress import Progress, live
from acclimate.runtime.workers import Engine, here
from acclimate.source.loop import Run
from acclimate.source.presets import SourceSettings
from acclimate.source.train import train as train_bundle
from acclimate.storage import atomic

ROWS = ("source", "ptbn", "aligned", "aligned-bn", "cta", "cta-paper", "acclimate")
"""Methods in the table. ``cta`` and ``acclimate`` are also measured at learning rate 0, to isolate
their steps."""

GUARD_IMAGES = 128
"""Source images that the bundle's guard is calibrated on: of networks for minutes, in seconds."""


@dataclass(frozen=True)
class Study:
    """Settings of training and evaluation.

    ```python
    STUDY = Study("CTA", "acclimate:resnet8", PRESETS["small"], corruptions=("fog", "contrast"))
    ```
    """

    title: str
    model: str
    """Name of the classifier, as `acclimate.backbones.build` takes it."""
    settings: SourceSettings
    corruptions: tuple[str, ...]
    """Corruptions to evaluate on. The report's means exclude held-out ones, e.g. speckle noise."""
    severity: int = 5
    images: int = 1000
    """Number of test images per corruption, evenly spaced. Clean accuracy is over all images."""
    batch: int = 128
    """Batch size at deployment."""
    seed: int = 0
    """Seed of training, corruptions, order and views."""


def run_study(
    study: Study,
    train: LabelledImages,
    test: LabelledImages,
    out: Path,
    *,
    command: str,
    console: Console,
    stages: Path | None = None,
    engine: Engine = here,
    memory_limit: str | None = None,
) -> list[Measured]:
    """Run all steps of a study that are not yet done, and print its table.

    ```python
    run_study(STUDY, train, test, Path("runs/cta"), command="python cta.py", console=Console())
    ```

    Args:
        study: Settings of the study.
        train: Source images.
        test: Test images, which are corrupted and adapted to.
        out: Folder for ``bundle/``, the grid's results, ``report.html`` and ``picture.png``.
        command: Command that repeats the study, for the report.
        console: Console for the table.
        stages: Folder that keeps the training checkpoints; without it they are deleted in the end.
        engine: Executor of the measurements, e.g. `acclimate.runtime.workers.processes`.
        memory_limit: The most memory that each process may hold.

    Returns:
        All measurements.

    Raises:
        InputError: the folder holds another study, something in it is damaged, or it cannot be
            written.
    """
    _check_folder(out, study, train, test)
    finished = (out / PAGE).exists()
    with live() as progress:
        if not (out / "bundle").exists():
            with atomic.only_writer(out / "bundle.making"):
                _train(study, train, out, stages, progress, memory_limit)
            shutil.rmtree(out / "bundle.making", ignore_errors=True)
        if not finished:
            _measure(study, test, out, engine, progress, memory_limit)
    measured, _ = read_grid(out)
    cells = next(iter(by_protocol(measured).values()))
    held_out = held_out_of(measured)
    table = compare([each for each in cells if not each.cell.variant.control], held_out)
    if not finished:
        _write(out, study, test, cells, table, command)
    show_table(table, console, warnings=warnings_of(table, study.batch))
    for label, gain in parts_of(cells, held_out):
        console.print(
            f"{label}: {100 * gain.difference:+.2f} points "
            f"[{100 * gain.low:+.2f}, {100 * gain.high:+.2f}]"
        )
    state = "was done already" if finished else "is done"
    console.print(f"{study.title} {state}: open {out / PAGE}")
    return measured


def _train(
    study: Study,
    train: LabelledImages,
    out: Path,
    stages: Path | None,
    progress: Progress,
    memory_limit: str | None,
) -> None:
    """Train the bundle and save it, unless another run has just done so."""
    if (out / "bundle").exists():
        return
    training = Run(
        seed=study.seed,
        folder=stages or out / "stages",
        progress=progress,
        memory_limit=memory_limit,
    )
    bundle = train_bundle("cta", study.model, train, study.settings, training)
    if can_be_measured(train.images):
        bundle = measure_guard(bundle, train.images, training, count=GUARD_IMAGES)
    bundle.save(out / "bundle")
    if not stages:
        shutil.rmtree(out / "stages", ignore_errors=True)


def _measure(
    study: Study,
    test: LabelledImages,
    out: Path,
    engine: Engine,
    progress: Progress,
    memory_limit: str | None,
) -> None:
    """Run a grid of all corruptions on a subset of the images, and one of all clean images."""
    without_steps = tuple(str(variant.without_steps) for variant in STEPPING)
    for images, corruptions in ((subset(test, study.images), study.corruptions), (test, (CLEAN,))):
        grid = Grid(
            corruptions,
            severities=(study.severity,),
            seeds=(study.seed,),
            methods=(*ROWS, *without_steps),
            batch=study.batch,
        )
        loads = (partial(_unchanged, images),)
        grid_run = GridRun(grid, {"bundle": out / "bundle"}, loads, memory_limit=memory_limit)
        _, errors = run_grid(grid_run, out, engine=engine, progress=progress)
        if errors:
            raise InputError(f"{errors[0][0]} failed: {errors[0][1]}")


def _unchanged(images: LabelledImages) -> LabelledImages:
    return images


def _check_folder(out: Path, study: Study, train: LabelledImages, test: LabelledImages) -> None:
    """Record the study in its folder, or check that the folder holds this study."""
    record = asdict(study) | {
        "train": [train.name, len(train.images)],
        "test": [test.name, len(test.images)],
    }
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    path = out / "study.json"
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out} holds something else; choose another --out.")
        atomic.write_text(path, text)
    elif path.read_text(encoding="utf-8", errors="replace") != text:
        raise InputError(
            f"{out} holds a study with other settings (see {path}); choose another --out."
        )


def _write(
    out: Path,
    study: Study,
    test: LabelledImages,
    cells: Sequence[Measured],
    table: Comparison,
    command: str,
) -> None:
    """Write the picture and then the report."""
    result_picture(out / "picture.png", table, title=study.title)
    shown = reported(cells, held_out_of(cells))
    corruptions = list(dict.fromkeys(each.cell.corruption for each in shown))
    samples = samples_of(
        Bundle.load(out / "bundle").classes,
        corruptions,
        subset(test, study.images),
        [each.cell for each in shown],
    )
    report_grid(out, title=study.title, samples=samples, command=command)
