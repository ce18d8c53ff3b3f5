"""What a grid left in its folder, as the report reads it."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from acclimate.data import CORRUPTIONS, Shift
from acclimate.errors import InputError, unknown_name
from acclimate.evaluate.bench import MANIFEST, RESULTS, STORE
from acclimate.evaluate.cell import Cell
from acclimate.evaluate.measure import LR0
from acclimate.evaluate.results import line_of, read_results
from acclimate.evaluate.store import Store
from acclimate.evaluate.task import Task
from acclimate.methods import METHODS, AdapterSettings
from acclimate.report.summary import CLEAN

AS_IT_GOES = ("gradual", "growing-noise")
"""Orders whose streams pass through severities, so that no one severity describes them."""
RowKey = tuple[str, str]
"""Bundle and method: what has a row in a table and a colour in a figure."""


class Measured(NamedTuple):
    """A cell, and the task that it was measured for."""

    task: Task
    cell: Cell

    @property
    def row(self) -> RowKey:
        """Bundle and method."""
        return self.cell.bundle, self.cell.method


@dataclass(frozen=True)
class Protocol:
    """What cells must share to stand in one table."""

    dataset: str
    order: str
    batch: int
    severity: float | None
    """None where a stream passes through several."""

    def __str__(self) -> str:
        severity = "" if self.severity is None else f", severity {self.severity:g}"
        return f"{self.dataset}{severity}, {self.order}, batches of {self.batch}"


def read_grid(folder: Path) -> tuple[list[Measured], dict]:
    """The cells of a grid's folder and its manifest.

    Cells of settings that a later run into the same folder replaced are left out: they belong to
    another row of the same name. A folder of ``results.csv`` and the manifest alone, as results are
    published, has cells without curves and answers, and nothing tells whether settings were
    replaced.

    Raises:
        InputError: there is no grid in the folder, it is empty or damaged, or holds results of two
            bundles of one name, or without a store two of one place.
    """
    bare = not (folder / STORE).exists() and (folder / RESULTS).is_file()
    for name in (RESULTS if bare else STORE, MANIFEST):
        if not (folder / name).is_file():
            raise InputError(f"{folder} has no {name}; make one with acclimate bench --out.")
    manifest, settings = _manifest(folder / MANIFEST)
    found = _listed(folder, manifest, settings) if bare else _stored(folder, settings)
    measured = sorted(found, key=_place)
    if not measured:
        raise InputError(f"{folder} has no results yet; run the grid first.")
    return measured, manifest


def _manifest(path: Path) -> tuple[dict, dict[str, AdapterSettings]]:
    """What a manifest says, and the settings of its methods."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        kinds = {"grids": list, "bundles": dict, "methods": dict, "commits": list, "machine": dict}
        if not all(isinstance(manifest[name], kind) for name, kind in kinds.items()):
            raise TypeError("another manifest")
        settings = {name: AdapterSettings(**each) for name, each in manifest["methods"].items()}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged; run the grid again.") from error
    return manifest, settings


def _stored(folder: Path, settings: Mapping[str, AdapterSettings]) -> list[Measured]:
    """All that is in the store, with answers."""
    with Store(folder / STORE) as store:
        tasks = store.tasks()
        current = [task for task in tasks if settings.get(task.method) == task.settings]
        for label in {task.bundle for task in current}:
            if len({task.checksum for task in current if task.bundle == label}) > 1:
                raise InputError(
                    f"{folder} holds results of two bundles called {label}; run one into a new "
                    "folder."
                )
        return with_tasks(current, store)


def _listed(
    folder: Path, manifest: Mapping, settings: Mapping[str, AdapterSettings]
) -> list[Measured]:
    """The lines of the file, each with a task that says what the line does."""
    path = folder / RESULTS
    cells = read_results(path)
    for name in sorted({cell.method for cell in cells}):
        if name.removesuffix(LR0) not in METHODS:
            raise unknown_name("method", name, METHODS)
        if name not in settings:
            raise InputError(f"{folder / MANIFEST} has no settings of {name}; copy both files.")
    if len({line_of(cell) for cell in cells}) < len(cells):
        raise InputError(
            f"{path} has two lines of one method, bundle and stream, and there is no {STORE} to "
            "tell them apart; copy that too."
        )
    return [Measured(_task(cell, settings[cell.method], manifest["grids"]), cell) for cell in cells]


def _task(cell: Cell, settings: AdapterSettings, grids: Sequence[Mapping]) -> Task:
    """What a line says of its task; images are known by their number alone.

    A line of a stream of several shifts is of a part of the images, or of several rounds of them:
    then the grids with such streams say how many there are.
    """
    numbers = {grid.get("images") for grid in grids if cell.order in grid["orders"]}
    images = cell.n_images if cell.n_images in numbers or len(numbers) != 1 else numbers.pop()
    return Task(
        bundle=cell.bundle,
        checksum="",
        method=cell.method,
        settings=settings,
        dataset=cell.dataset,
        images=str(images),
        n_images=cell.n_images,
        length=cell.n_images,
        order=cell.order,
        shifts=(Shift(cell.corruption, cell.severity),),
        batch=cell.batch,
        seed=cell.seed,
        curve=False,
        frost="",
    )


def with_tasks(tasks: Iterable[Task], store: Store) -> list[Measured]:
    """The cells of tasks that are done, each beside its task."""
    return [Measured(task, cell) for task in tasks for cell in store.cells([task])]


def by_protocol(measured: Iterable[Measured]) -> dict[Protocol, list[Measured]]:
    """The cells that may be compared, the largest table of shuffled images first.

    Clean images have no severity: they stand in every table that has their row, or if none has it
    in all.
    """
    found: dict[Protocol, list[Measured]] = defaultdict(list)
    clean = []
    for each in measured:
        if each.cell.corruption == CLEAN:
            clean.append(each)
        else:
            found[_protocol(each)].append(each)
    rows = {protocol: {each.row for each in some} for protocol, some in found.items()}
    for each in clean:
        same = (each.cell.dataset, each.cell.order, each.task.batch)
        severities = [p for p in rows if (p.dataset, p.order, p.batch) == same]
        own = [protocol for protocol in severities if each.row in rows[protocol]]
        for protocol in own or severities or [_protocol(each)]:
            found[protocol].append(each)
    ranked = sorted(found, key=lambda p: (p.order != "shuffled", -len(found[p])))
    return {protocol: sorted(found[protocol], key=_place) for protocol in ranked}


def reported(measured: Sequence[Measured], held_out: Collection[str]) -> list[Measured]:
    """What counts for a mean: corrupted, and not kept apart for choosing settings."""
    return [m for m in measured if m.cell.corruption not in (CLEAN, *held_out)]


def row_names(measured: Iterable[Measured]) -> dict[RowKey, str]:
    """What rows are called: the method; with its bundle, where the method has several."""
    rows = list(dict.fromkeys(each.row for each in measured))
    bundles = defaultdict(set)
    for bundle, method in rows:
        bundles[method].add(bundle)
    return {
        (bundle, method): f"{method} · {bundle}" if len(bundles[method]) > 1 else method
        for bundle, method in rows
    }


def is_twin(method: str) -> bool:
    """Whether an aligned twin answers, and not the classifier."""
    return METHODS[method.removesuffix(LR0)].model == "twin"


def is_oracle(method: str) -> bool:
    """Whether a method was shown beforehand what it is measured on."""
    return METHODS[method.removesuffix(LR0)].oracle


def _protocol(each: Measured) -> Protocol:
    cell = each.cell
    severity = None if cell.order in AS_IT_GOES else cell.severity
    return Protocol(cell.dataset, cell.order, each.task.batch, severity)


def _place(each: Measured) -> tuple:
    """As in the tables of methods and corruptions; methods at learning rate 0 beside themselves."""
    cell = each.cell
    method = list(METHODS).index(cell.method.removesuffix(LR0))
    corruption = [CLEAN, *CORRUPTIONS].index(cell.corruption)
    return method, cell.method, cell.bundle, corruption, cell.severity, cell.seed
