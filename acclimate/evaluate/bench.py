"""A grid in a folder: a store, ``results.csv`` and a manifest, which grow with each run."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from acclimate.bundle import read_record
from acclimate.data import LabelledImages
from acclimate.errors import InputError
from acclimate.evaluate.cell import Cell
from acclimate.evaluate.engines import Engine, Workplace, here
from acclimate.evaluate.grid import Estimate, estimate, measure_speeds, run
from acclimate.evaluate.measure import settings_of
from acclimate.evaluate.results import line_of, write_results
from acclimate.evaluate.store import Store
from acclimate.evaluate.task import Grid, Task, tasks_of
from acclimate.runtime import machine
from acclimate.runtime.progress import Progress, silent
from acclimate.storage.atomic import only_writer, write_text

STORE, RESULTS, MANIFEST = "cells.sqlite", "results.csv", "manifest.json"


@dataclass(frozen=True)
class Bench:
    """A grid, and what it is run on."""

    grid: Grid
    bundles: Mapping[str, Path]
    """Folders by their labels."""
    load: Callable[[], LabelledImages]
    """Gives the test images; processes call it anew, so it must be picklable for them."""

    def tasks(self) -> tuple[list[Task], Workplace]:
        """All tasks, and what they are worked on with."""
        tasks = tasks_of(self.grid, self.bundles, self.load())
        return tasks, Workplace(self.bundles, {task.images: self.load for task in tasks})


def plan(
    bench: Bench, out: Path, *, engine: Engine = here, progress: Progress = silent
) -> list[Estimate]:
    """What `bench` would still do, and how long each method takes; it measures only their speeds.

    Raises:
        InputError: as `run_bench`.
    """
    tasks, place = bench.tasks()
    with only_writer(out), Store(out / STORE) as store:
        speeds = measure_speeds(tasks, store, place, engine=engine, progress=progress)
        return estimate(tasks, store, speeds)


def run_bench(
    bench: Bench, out: Path, *, engine: Engine = here, progress: Progress = silent
) -> tuple[list[Cell], list[tuple[str, str]]]:
    """Measure what is not there yet, and write ``results.csv`` and ``manifest.json``.

    Args:
        bench: What to do.
        out: The folder. Other grids may have been run into it: the results are all of theirs.
        engine: Where to work.
        progress: Told of speeds and of seconds done.

    Returns:
        This bench's cells with their answers, and the name and error of each of its tasks that
        failed.

    Raises:
        InputError: an unknown name, a damaged bundle or store, a folder that another run is
            writing or that cannot be written.
    """
    tasks, place = bench.tasks()
    with only_writer(out):
        known = _read_manifest(out / MANIFEST)
        with Store(out / STORE) as store:
            speeds = measure_speeds(tasks, store, place, engine=engine, progress=progress)
            note = partial(_note, out / MANIFEST, known, bench, tasks, store)
            note()  # a killed run's cells have their grid too
            try:
                run(tasks, store, place, engine=engine, speeds=speeds, progress=progress)
            finally:  # also of a run that is interrupted
                write_results(sorted(store.cells(answers=False), key=line_of), out / RESULTS)
                note()
            return store.cells(tasks), store.errors(tasks)


def _note(path: Path, known: dict, bench: Bench, tasks: Sequence[Task], store: Store) -> None:
    """Write down what is needed to run all grids of the folder again."""
    grid = asdict(bench.grid) | {"bundles": list(bench.bundles)}
    grid |= {"dataset": tasks[0].dataset, "images": tasks[0].n_images}
    grid = json.loads(json.dumps(grid))
    bundles = known["bundles"]
    for label, folder in bench.bundles.items():
        record = read_record(folder)
        names = ("recipe", "architecture", "weights_sha256", "provenance")
        bundles[label] = {name: record[name] for name in names}
    methods = {task.method: asdict(settings_of(task.method)) for task in tasks}
    manifest = {
        "grids": [*(old for old in known["grids"] if old != grid), grid],
        "bundles": bundles,
        "methods": known["methods"] | methods,
        "commits": list(store.sources()),
        "machine": machine.describe(),
    }
    write_text(path, json.dumps(manifest, indent=2) + "\n")


def _read_manifest(path: Path) -> dict:
    if not path.exists():
        return {"grids": [], "bundles": {}, "methods": {}}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {
            "grids": list(known["grids"]),
            "bundles": dict(known["bundles"]),
            "methods": dict(known["methods"]),
        }
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged; delete it and run the grid again.") from error
