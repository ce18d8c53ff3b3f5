"""``acclimate bench``."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console
from rich.table import Table

from acclimate.data.corruptions import PUBLISHED
from acclimate.errors import InputError

if TYPE_CHECKING:
    from acclimate.data import LabelledImages
    from acclimate.evaluate.grid import Estimate


@dataclass(frozen=True)
class Bench:
    """Measure methods on corrupted images: every combination, resumed where it was stopped.

    Each bundle is measured with the methods that it was made for and, beside them, frozen and with
    batch statistics. Grids run into the same folder are reported together.

    Example: acclimate bench supervised cta ttt --data cifar10.zip --out runs/main --images 2000

    Example: acclimate bench cta --data cifar10.zip --out runs/main --seeds 0 1 2 --plan
    """

    bundles: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of bundles; methods that learn with any classifier take the first."""
    data: str
    """A data set by name, such as fashion-mnist-mini, or cifar10 with --root; a folder
    test/class/image; or a zip of one."""
    out: Path
    """Folder of cells.sqlite, results.csv and manifest.json."""
    methods: tuple[str, ...] = ()
    """Names that acclimate methods lists, or NAME-lr0: the same at learning rate 0."""
    corruptions: tuple[str, ...] = ("none", *PUBLISHED)
    """Names; none is clean images."""
    severities: tuple[int, ...] = (5,)
    """1 to 5."""
    orders: tuple[str, ...] = ("shuffled",)
    """How images arrive: shuffled, class-correlated, label-shifted, gradual, growing-noise,
    continual, recurring, mixed."""
    seeds: tuple[int, ...] = (0,)
    """Of order, corruption and views."""
    images: int | None = None
    """How many test images, evenly spaced; all without it."""
    batch: int = 128
    """Images that arrive together."""
    curve: bool = True
    """Record the accuracy before and after each gradient step."""
    workers: int | None = None
    """Processes that measure at the same time; one a core, or a GPU, without it."""
    threads: int = 1
    """Of each process."""
    plan: bool = False
    """Only say what would be run, and how long it takes."""
    root: Path | None = None
    """Where a named data set lies."""
    domain: str | None = None
    """Which part of a set with domains: sketch (pacs)."""
    size: int | None = None
    """Resize images to squares of this many pixels."""

    def run(self, console: Console) -> None:
        """Do it."""
        from acclimate.evaluate import bench
        from acclimate.evaluate.engines import processes
        from acclimate.progress import live
        from acclimate.report.summary import summarise
        from acclimate.report.table import show_table

        engine = processes(self.workers or _usual_workers(self.threads), self.threads)
        job = bench.Bench(self._grid(), _labelled(self.bundles), self._load())
        with live() as progress:
            if self.plan:
                rows = bench.plan(job, self.out, engine=engine, progress=progress)
                workers = self.workers or _usual_workers(self.threads)
                console.print(_table(rows, workers))
                return
            cells, errors = bench.run_bench(job, self.out, engine=engine, progress=progress)
        for dataset, order in dict.fromkeys((cell.dataset, cell.order) for cell in cells):
            some = [cell for cell in cells if (cell.dataset, cell.order) == (dataset, order)]
            for label in dict.fromkeys(cell.bundle for cell in some):
                mine = [cell for cell in some if cell.bundle == label]
                names = list(dict.fromkeys(cell.method for cell in mine))
                console.print(f"{label}: {dataset}, {order}", highlight=False)
                show_table(summarise(mine, names), console)
        for name, reason in errors:
            console.print(f"failed: {name}: {reason}", markup=False, highlight=False)
        console.print(f"results are in {self.out / bench.RESULTS}", highlight=False)
        if cells:
            console.print(f"acclimate report {self.out} shows them as a page", highlight=False)
        if errors:
            raise SystemExit(1)

    def _grid(self):
        from acclimate.evaluate.task import Grid

        return Grid(
            corruptions=self.corruptions,
            severities=self.severities,
            orders=self.orders,
            seeds=self.seeds,
            methods=self.methods,
            batch=self.batch,
            curve=self.curve,
        )

    def _load(self):
        options = {"root": self.root, "domain": self.domain, "size": self.size}
        return partial(_some, self.data, self.images, options)


def _some(data: str, images: int | None, options: dict) -> "LabelledImages":
    from acclimate.data import load, subset

    found = load(data, "test", **options)
    return found if images is None else subset(found, images)


def _usual_workers(threads: int) -> int:
    import torch

    return torch.cuda.device_count() or max(1, (os.cpu_count() or 1) // threads)


def _labelled(bundles: tuple[Path, ...]) -> dict[str, Path]:
    if not bundles:
        raise InputError("there is no bundle; make one with acclimate train or acclimate align.")
    labelled = {path.resolve().name: path for path in bundles}
    if len(labelled) < len(bundles):
        raise InputError("two bundles have the same name; rename a folder, for results carry it.")
    return labelled


def _table(rows: "list[Estimate]", workers: int) -> Table:
    table = Table("bundle", "method", title="To be measured", title_justify="left", box=None)
    for name in ("runs", "done", "images left", "time"):
        table.add_column(name, justify="right")
    for row in rows:
        figures = (f"{row.tasks}", f"{row.done}", f"{row.images:,}", _time(row.seconds))
        table.add_row(row.bundle, row.method, *figures)
    together = sum(row.seconds for row in rows if row.seconds == row.seconds)
    left = sum(row.images for row in rows)
    table.add_row(
        "", f"in {workers} processes", "", "", f"{left:,}", _time(together / workers), style="bold"
    )
    return table


def _time(seconds: float) -> str:
    if seconds != seconds:
        return "fails"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.1f} min"
