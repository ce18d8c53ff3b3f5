"""A grid in a folder: a store, ``results.csv`` and a manifest, which grow with each run."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from acclimate.bundle import read_record
from acclimate.data import LabelledImages
from acclimate.errors import InputError
from acclimate.evaluate.card import card_name, protocol_cards
from acclimate.evaluate.grid import Estimate, estimate, measure_speeds, run
from acclimate.evaluate.results import line_of, write_results
from acclimate.evaluate.store import Measured, Store
from acclimate.evaluate.task import Grid, Task, match_of, tasks_of
from acclimate.evaluate.workplace import Workplace
from acclimate.methods.changes import settings_record
from acclimate.runtime import machine
from acclimate.runtime.progress import Progress, silent
from acclimate.runtime.workers import Engine, here
from acclimate.storage.atomic import only_writer, write_text

STORE, RESULTS, MANIFEST = "cells.sqlite", "results.csv", "manifest.json"


@dataclass(frozen=True)
class GridRun:
    """A grid, the bundles that adapt, and the images that they answer for.

    ```python
    run_grid(GridRun(Grid(("none", "fog")), {"mine": Path("bundle")}, (load_test,)), Path("out"))
    ```
    """

    grid: Grid
    bundles: Mapping[str, Path]
    """Folders by their labels."""
    loads: Sequence[Callable[[], LabelledImages]]
    """Functions that load test images: one function, or one for each domain. Processes call them
    anew, so several processes need functions that can be pickled."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of ``acclimate bench`` that say where bundles and images are, for the manifest."""
    memory_limit: str | None = None
    """The most memory that each process may hold; the results do not depend on it."""

    def tasks(self) -> tuple[list[Task], Workplace]:
        """All tasks, and the bundles and images that they work with."""
        tasks: list[Task] = []
        data: dict[str, Callable[[], LabelledImages]] = {}
        notes: dict[str, None] = {}
        for load in self.loads:
            images = load()
            found = tasks_of(self.grid, self.bundles, images)
            notes |= dict.fromkeys(match_of(path, images).note for path in self.bundles.values())
            data |= {task.images: load for task in found}
            tasks += found
        said = tuple(filter(None, notes))
        return tasks, Workplace(self.bundles, data, said, self.memory_limit)


def plan(
    grid_run: GridRun, out: Path, *, engine: Engine = here, progress: Progress = silent
) -> list[Estimate]:
    """Estimate what a run would still do, and how long it takes. Only speeds are measured.

    Raises:
        InputError: as `run_grid`.
    """
    tasks, place = grid_run.tasks()
    with only_writer(out), Store(out / STORE) as store:
        speeds = measure_speeds(tasks, store, place, engine=engine, progress=progress)
        return estimate(tasks, store, speeds)


def run_grid(
    grid_run: GridRun,
    out: Path,
    *,
    engine: Engine = here,
    progress: Progress = silent,
    say: Callable[[str], object] = lambda note: None,
) -> tuple[list[Measured], list[tuple[str, str]]]:
    """Measure what is not there yet, and write ``results.csv`` and ``manifest.json``.

    Args:
        grid_run: What to do.
        out: The folder. Other grids may have been run into it; the files hold the results of all.
        engine: Where to work.
        progress: Told of speeds and of seconds done.
        say: Called with each sentence on how classes were matched, if not by their names.

    Returns:
        The cells of this run with their answers, and the name and error of each of its tasks that
        failed.

    Raises:
        InputError: an unknown name, a damaged bundle or store, a folder that another run is
            writing or that cannot be written.
    """
    tasks, place = grid_run.tasks()
    for each in place.notes:
        say(each)
    with only_writer(out):
        known = _read_manifest(out / MANIFEST)
        with Store(out / STORE) as store:
            speeds = measure_speeds(tasks, store, place, engine=engine, progress=progress)
            note = partial(_note, out / MANIFEST, known, grid_run, tasks, store, place.notes)
            note()  # a killed run's cells have their grid too
            try:
                run(tasks, store, place, engine=engine, speeds=speeds, progress=progress)
            finally:  # also after an interrupt
                cells = [
                    replace(each.cell, card=card_name(each.task))
                    for each in store.measured(store.tasks(), answers=False)
                ]
                write_results(sorted(cells, key=line_of), out / RESULTS)
                note()
            return store.measured(tasks), store.errors(tasks)


def _note(
    path: Path,
    known: dict,
    grid_run: GridRun,
    tasks: Sequence[Task],
    store: Store,
    notes: Sequence[str],
) -> None:
    """Write down what is needed to run all grids of the folder again."""
    grid = asdict(grid_run.grid) | {"bundles": list(grid_run.bundles), "dataset": tasks[0].dataset}
    grid["domains"] = list(dict.fromkeys(s.domain for t in tasks for s in t.shifts if s.domain))
    grid["images"] = max(task.n_images for task in tasks)
    grid |= {"options": dict(grid_run.options), "notes": list(notes)}
    for name in ("window", "parts"):  # as in manifests of before there were these
        if not grid[name]:
            del grid[name]
    grid = json.loads(json.dumps(grid, default=str))
    bundles = known["bundles"]
    for label, folder in grid_run.bundles.items():
        record = read_record(folder)
        names = ("recipe", "architecture", "preprocessing", "weights_sha256", "provenance")
        bundles[label] = {name: record[name] for name in names}
    methods = {str(task.variant): settings_record(task.settings) for task in tasks}
    manifest = {
        "grids": [*(old for old in known["grids"] if _combined(old) != _combined(grid)), grid],
        "bundles": bundles,
        "methods": known["methods"] | methods,
        "cards": known["cards"] | _cards(tasks, store, bundles),
        "commits": list(store.sources()),
        "machine": machine.describe(),
    }
    write_text(path, json.dumps(manifest, indent=2) + "\n")


def _cards(tasks: Sequence[Task], store: Store, bundles: Mapping[str, Mapping]) -> dict[str, dict]:
    """The cards of all that the store holds of these bundles, of earlier runs too."""
    checksums = {task.bundle: task.checksum for task in tasks}
    done = [t for t in store.tasks() if checksums.get(t.bundle) == t.checksum]
    return protocol_cards(done, bundles, store.commits())


def _combined(grid: Mapping) -> dict:
    """What a grid combines, wherever its bundles and images lie."""
    return {name: value for name, value in grid.items() if name not in ("options", "notes")}


def _read_manifest(path: Path) -> dict:
    if not path.exists():
        return {"grids": [], "bundles": {}, "methods": {}, "cards": {}}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {
            "grids": list(known["grids"]),
            "bundles": dict(known["bundles"]),
            "methods": dict(known["methods"]),
            "cards": dict(known.get("cards", {})),  # there were none in earlier versions
        }
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged; delete it and run the grid again.") from error
