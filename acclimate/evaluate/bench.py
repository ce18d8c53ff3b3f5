"""A grid in a folder: a store, ``results.csv`` and a manifest, which grow with each run."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from acclimate import machine
from acclimate.bundle import read_record
from acclimate.data import CORRUPTIONS, LabelledImages
from acclimate.errors import InputError
from acclimate.evaluate.cell import Cell
from acclimate.evaluate.engines import Engine, Workplace, here
from acclimate.evaluate.grid import Estimate, estimate, measure_speeds, run
from acclimate.evaluate.measure import LR0, settings_of
from acclimate.evaluate.results import write_results
from acclimate.evaluate.store import Store
from acclimate.evaluate.task import Grid, Task, tasks_of
from acclimate.files import only_writer, write_text
from acclimate.methods import METHODS
from acclimate.progress import Progress, silent

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
        return tasks, Workplace(self.bundles, {tasks[0].images: self.load} if tasks else {})


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
        This bench's cells with their answers, and the name and error of each task that failed.

    Raises:
        InputError: an unknown name, a damaged bundle or store, a folder that another run is
            writing or that cannot be written.
    """
    tasks, place = bench.tasks()
    with only_writer(out), Store(out / STORE) as store:
        speeds = measure_speeds(tasks, store, place, engine=engine, progress=progress)
        try:
            run(tasks, store, place, engine=engine, speeds=speeds, progress=progress)
        finally:  # also of a run that is interrupted
            write_results(sorted(store.cells(answers=False), key=_line), out / RESULTS)
            _write_manifest(bench, tasks, store, out / MANIFEST)
        finished = store.done()
        cells = store.cells([task for task in tasks if task.key in finished])
        return cells, store.errors()


def _line(cell: Cell) -> tuple:
    """Where a cell stands in the file: the same whatever was measured first."""
    methods, corruptions = list(METHODS), ["none", *CORRUPTIONS]
    name = cell.method.removesuffix(LR0)
    what = (methods.index(name), cell.method, cell.bundle, cell.dataset, cell.n_images, cell.order)
    return (*what, corruptions.index(cell.corruption), cell.severity, cell.seed)


def _write_manifest(bench: Bench, tasks: list[Task], store: Store, path: Path) -> None:
    """What is needed to run all grids of the folder again."""
    grid = asdict(bench.grid) | {"bundles": list(bench.bundles)}
    if tasks:
        grid |= {"dataset": tasks[0].dataset, "images": tasks[0].n_images}
    known = _read_manifest(path)
    grid = json.loads(json.dumps(grid))
    bundles = known.get("bundles", {})
    for label, folder in bench.bundles.items():
        record = read_record(folder)
        names = ("recipe", "architecture", "weights_sha256", "provenance")
        bundles[label] = {name: record[name] for name in names}
    methods = {task.method: asdict(settings_of(task.method)) for task in tasks}
    manifest = {
        "grids": [*(old for old in known.get("grids", []) if old != grid), grid],
        "bundles": bundles,
        "methods": known.get("methods", {}) | methods,
        "commits": store.sources(),
        "machine": machine.describe(),
    }
    write_text(path, json.dumps(manifest, indent=2) + "\n")


def _read_manifest(path: Path) -> dict:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged; delete it and run the grid again.") from error
