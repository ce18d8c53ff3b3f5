"""A whole study in one folder: train, corrupt, compare, report; killed, it resumes."""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from acclimate.bundle import Bundle
from acclimate.data import LabelledImages, subset
from acclimate.errors import InputError
from acclimate.evaluate.cell import Cell
from acclimate.evaluate.engines import Engine, Workplace, here
from acclimate.evaluate.grid import run
from acclimate.evaluate.measure import LR0
from acclimate.evaluate.results import write_results
from acclimate.evaluate.store import Store
from acclimate.evaluate.task import Grid, tasks_of
from acclimate.methods import METHODS
from acclimate.report.measured import Measured, with_tasks
from acclimate.report.page import Report, write_page
from acclimate.report.picture import result_picture
from acclimate.report.samples import samples_of
from acclimate.report.summary import Gain, gains_of, summarise
from acclimate.report.table import show_table
from acclimate.runtime import machine
from acclimate.runtime.progress import Progress, live
from acclimate.source.loop import Run
from acclimate.source.presets import SourceSettings
from acclimate.source.train import train as train_bundle
from acclimate.storage import atomic

ROWS = ("source", "ptbn", "aligned", "aligned-bn", "cta", "cta-paper")
"""The table's rows; ``cta-lr0`` is measured beside them, to tell steps from statistics."""


@dataclass(frozen=True)
class Study:
    """What is trained and what is measured."""

    title: str
    model: str
    """Name of the classifier, as `acclimate.backbones.build` takes it."""
    settings: SourceSettings
    reported: tuple[str, ...]
    """Corruptions of the table."""
    held_out: tuple[str, ...]
    """Corruptions kept apart for choosing settings; shown apart and in no mean."""
    severity: int = 5
    images: int = 1000
    """Test images under each corruption, evenly spaced; clean ones are all answered for."""
    batch: int = 128
    """Test images that arrive together."""
    seed: int = 0
    """Of training, corruptions, order and views."""


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
) -> list[Cell]:
    """Make everything of a study that is not there yet, and show its table.

    Args:
        study: What to do.
        train: Source images.
        test: Images to corrupt and answer for.
        out: The folder: ``bundle/``, ``results.csv``, ``report.html``, ``picture.png``.
        command: How to run it again, for the report.
        console: Where the table is printed.
        stages: A folder of the training's checkpoints that is kept; without it they are in ``out``
            until the bundle is written.
        engine: Where the methods are measured.

    Returns:
        All measurements.

    Raises:
        InputError: the folder holds another study, something in it is damaged, or it cannot be
            written.
    """
    started = time.perf_counter()
    _claim(out, study, train, test)
    finished = (out / "report.html").exists()
    with live() as progress:
        bundle_path = out / "bundle"
        if not bundle_path.exists():
            training = Run(seed=study.seed, folder=stages or out / "stages", progress=progress)
            train_bundle("cta", study.model, train, study.settings, training).save(bundle_path)
            if not stages:
                shutil.rmtree(out / "stages", ignore_errors=True)
        measured = _measure(study, test, out, engine, progress)
    cells = [each.cell for each in measured]
    gains = gains_of(cells, held_out=study.held_out)
    if not finished:
        seconds = time.perf_counter() - started
        _write(out, study, subset(test, study.images), measured, gains, command, seconds)
    show_table(summarise(cells, ROWS, study.held_out), console)
    for gain in gains:
        console.print(
            f"{gain.label}: {100 * gain.difference:+.2f} points "
            f"[{100 * gain.low:+.2f}, {100 * gain.high:+.2f}]"
        )
    state = "was done already" if finished else "is done"
    console.print(f"{study.title} {state}: open {out / 'report.html'}")
    return cells


def _measure(
    study: Study, test: LabelledImages, out: Path, engine: Engine, progress: Progress
) -> list[Measured]:
    """All corruptions of some of the images, and all of the images clean."""
    bundles = {"bundle": out / "bundle"}
    tasks, data = [], {}
    for images, corruptions in (
        (subset(test, study.images), study.reported + study.held_out),
        (test, ("none",)),
    ):
        grid = Grid(
            corruptions,
            severities=(study.severity,),
            seeds=(study.seed,),
            methods=(*ROWS, f"cta{LR0}"),
            batch=study.batch,
        )
        found = tasks_of(grid, bundles, images)
        data[found[0].images] = partial(_itself, images)
        tasks += found
    with Store(out / "cells.sqlite") as store:
        run(tasks, store, Workplace(bundles, data), engine=engine, progress=progress)
        if errors := store.errors(tasks):
            raise InputError(f"{errors[0][0]} failed: {errors[0][1]}")
        return with_tasks(tasks, store)


def _itself(images: LabelledImages) -> LabelledImages:
    return images


def _claim(out: Path, study: Study, train: LabelledImages, test: LabelledImages) -> None:
    """Write what the folder is for, or check that it is for this."""
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
    measured: Sequence[Measured],
    gains: Sequence[Gain],
    command: str,
    seconds: float,
) -> None:
    cells = [each.cell for each in measured]
    write_results([cell for cell in cells if cell.method in ROWS], out / "results.csv")
    summary = summarise(cells, ROWS, study.held_out)
    result_picture(out / "picture.png", summary, ROWS, title=study.title)
    bundle = Bundle.load(out / "bundle")
    report = Report(
        title=study.title,
        measured=[each for each in measured if each.cell.method in ROWS],
        settings={name: asdict(METHODS[name].settings) for name in ROWS},
        provenance={
            "command": command,
            "seed": study.seed,
            "seconds of the last run": round(seconds, 1),
            "machine": machine.describe(),
            "training": bundle.provenance["seconds"],
            "settings": bundle.provenance["settings"],
        },
        held_out=study.held_out,
        samples=samples_of(bundle.classes, study.reported, test, cells),
        gains=gains,
        classes=bundle.classes,
    )
    write_page(out / "report.html", report)
