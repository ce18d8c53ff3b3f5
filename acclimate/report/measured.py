"""The cells of a grid's folder, and how they are grouped."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from acclimate.data import CORRUPTIONS, Shift
from acclimate.data.corruptions import PUBLISHED
from acclimate.errors import InputError, unknown_name
from acclimate.evaluate.arrival import AS_IT_GOES
from acclimate.evaluate.cell import CLEAN, Cell
from acclimate.evaluate.grid_run import MANIFEST, RESULTS, STORE
from acclimate.evaluate.results import line_of, read_results
from acclimate.evaluate.store import Measured, Store
from acclimate.evaluate.task import Task
from acclimate.evaluate.variant import Variant
from acclimate.methods import METHODS, AdapterSettings
from acclimate.methods.changes import settings_of_record

RowKey = tuple[str, Variant]
"""Bundle and variant: what has a row in a table and a colour in a figure."""
Settings = Mapping[Variant, AdapterSettings]


@dataclass(frozen=True)
class Protocol:
    """The conditions that all cells of a table share."""

    dataset: str
    order: str
    batch: int
    severity: float | None
    """None where a stream passes through several, and for images of domains, which have none."""
    window: int = 0
    """Length of the window that single images passed through; 0 without."""

    @property
    def together(self) -> int:
        """Images whose statistics are taken together."""
        return self.window or self.batch

    def __str__(self) -> str:
        severity = "" if self.severity is None else f", severity {self.severity:g}"
        came = f"batches of {self.batch}"
        if self.window:
            came = f"single images in a window of {self.window}"
        return f"{self.dataset}{severity}, {self.order}, {came}"


def read_grid(folder: Path) -> tuple[list[Measured], dict[str, Any]]:
    """The cells of a grid's folder and its manifest.

    ```python
    measured, manifest = read_grid(Path("runs/main"))
    ```

    Cells of settings that a later run into the same folder replaced are left out: they belong to
    another row of the same name. A folder of ``results.csv`` and the manifest alone, as results are
    published, has cells without curves and answers, and nothing tells whether settings were
    replaced.

    Raises:
        InputError: there is no grid in the folder, it is empty, damaged or of an older version, it
            holds results of two bundles of one name, or without a store two lines of one place.
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


def _manifest(path: Path) -> tuple[dict, Settings]:
    """A manifest, and the settings of its variants."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        kinds = {"grids": list, "bundles": dict, "methods": dict, "commits": list, "machine": dict}
        if not all(isinstance(manifest[name], kind) for name, kind in kinds.items()):
            raise TypeError("another manifest")
        if any("learning_rate" in record for record in manifest["methods"].values()):
            raise _Older
        settings = {
            Variant.parse(name): settings_of_record(record)
            for name, record in manifest["methods"].items()
        }
    except _Older as error:
        raise InputError(
            f"{path} was written by an older acclimate; run the grid into a new folder."
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged; run the grid again.") from error
    return manifest, settings


class _Older(Exception):  # noqa: N818  it becomes one
    """The manifest has settings by flat names, from before they were parts."""


def _stored(folder: Path, settings: Settings) -> list[Measured]:
    """All cells of the store, with answers."""
    with Store(folder / STORE) as store:
        tasks = store.tasks()
        current = [task for task in tasks if settings.get(task.variant) == task.settings]
        for label in {task.bundle for task in current}:
            if len({task.checksum for task in current if task.bundle == label}) > 1:
                raise InputError(
                    f"{folder} holds results of two bundles called {label}; run one into a new "
                    "folder."
                )
        return store.measured(current)


def _listed(folder: Path, manifest: Mapping, settings: Settings) -> list[Measured]:
    """The lines of ``results.csv``, each with a task that says what the line says."""
    path = folder / RESULTS
    cells = read_results(path)
    for variant in dict.fromkeys(cell.variant for cell in cells):
        if variant.method not in METHODS:
            raise unknown_name("method", variant.method, METHODS)
        if variant not in settings:
            raise InputError(f"{folder / MANIFEST} has no settings of {variant}; copy both files.")
    if len({line_of(cell) for cell in cells}) < len(cells):
        raise InputError(
            f"{path} has two lines of one method, bundle and stream, and there is no {STORE} to "
            "tell them apart; copy that too."
        )
    return [
        Measured(_task(cell, settings[cell.variant], manifest["grids"]), cell) for cell in cells
    ]


def _task(cell: Cell, settings: AdapterSettings, grids: Sequence[Mapping]) -> Task:
    """The task that a line tells of; images are known by their number alone.

    A line of a stream of several shifts is about a part of the images, or about several rounds of
    them: then the grids with such streams say how many images there are.
    """
    numbers = {grid.get("images") for grid in grids if cell.order in grid["orders"]}
    images = cell.n_images if cell.n_images in numbers or len(numbers) != 1 else numbers.pop()
    return Task(
        bundle=cell.bundle,
        checksum="",
        variant=cell.variant,
        settings=settings,
        dataset=cell.dataset,
        images=str(images),
        n_images=cell.n_images,
        length=cell.n_images,
        order=cell.order,
        shifts=(Shift(cell.corruption, cell.severity, cell.domain),),
        batch=cell.batch,
        seed=cell.seed,
        curve=False,
        frost="",
        window=cell.window,
    )


def by_protocol(measured: Iterable[Measured]) -> dict[Protocol, list[Measured]]:
    """Cells by protocol, the largest table of shuffled images first.

    Only cells of one protocol may be compared. Clean images have no severity: they stand in every
    table that has their row, or in all tables if none has it.
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
        same = replace(_protocol(each), severity=None)
        severities = [protocol for protocol in rows if replace(protocol, severity=None) == same]
        own = [protocol for protocol in severities if each.row in rows[protocol]]
        for protocol in own or severities or [_protocol(each)]:
            found[protocol].append(each)
    ranked = sorted(found, key=lambda p: (p.order != "shuffled", -len(found[p])))
    return {protocol: sorted(found[protocol], key=_place) for protocol in ranked}


def reported(measured: Sequence[Measured], held_out: Collection[str]) -> list[Measured]:
    """The cells that count for a mean: not clean, and not kept apart for choosing settings."""
    return [m for m in measured if m.cell.condition not in (CLEAN, *held_out)]


def held_out_of(measured: Iterable[Measured]) -> tuple[str, ...]:
    """The corruptions that are kept apart for choosing settings.

    Of the benchmark's nineteen corruptions these are the four extra ones, where they were measured
    beside some of the other fifteen.
    """
    seen = dict.fromkeys(m.cell.corruption for m in measured if not m.cell.domain)
    extra = tuple(name for name in seen if name != CLEAN and name not in PUBLISHED)
    return extra if any(name in PUBLISHED for name in seen) else ()


def usual_images(measured: Sequence[Measured]) -> dict[str, str]:
    """The images of each condition; of several sets the largest."""
    found: dict[str, Measured] = {}
    for each in measured:
        known = found.setdefault(each.cell.condition, each)
        if each.task.n_images > known.task.n_images:
            found[each.cell.condition] = each
    return {condition: each.task.images for condition, each in found.items()}


def row_names(measured: Iterable[Measured]) -> dict[RowKey, str]:
    """Names of rows: the variant, with its bundle where the variant has several."""
    rows = list(dict.fromkeys(each.row for each in measured))
    bundles = defaultdict(set)
    for bundle, variant in rows:
        bundles[variant].add(bundle)
    return {
        (bundle, variant): f"{variant} · {bundle}" if len(bundles[variant]) > 1 else str(variant)
        for bundle, variant in rows
    }


def _protocol(each: Measured) -> Protocol:
    cell = each.cell
    severity = None if cell.order in AS_IT_GOES or cell.domain else cell.severity
    return Protocol(cell.dataset, cell.order, each.task.batch, severity, cell.window)


def _place(each: Measured) -> tuple:
    """Sorts as the tables of methods and corruptions do; variants follow their method."""
    cell = each.cell
    method = list(METHODS).index(cell.variant.method)
    corruption = ["", CLEAN, *CORRUPTIONS].index(cell.corruption)
    shift = (corruption, cell.severity, cell.domain)
    return method, str(cell.variant), cell.bundle, *shift, cell.seed
