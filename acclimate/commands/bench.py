"""``acclimate bench``."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console
from rich.table import Table

from acclimate.commands.common import labelled
from acclimate.data.corruptions import PUBLISHED
from acclimate.errors import InputError

if TYPE_CHECKING:
    from acclimate.data import LabelledImages
    from acclimate.evaluate.cell import Cell
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
        from acclimate.evaluate.engines import processes, usual_workers
        from acclimate.runtime.progress import live

        workers = usual_workers(self.threads) if self.workers is None else self.workers
        engine = processes(workers, self.threads)
        job = bench.Bench(self._grid(), labelled(self.bundles), self._load())
        with live() as progress:
            if self.plan:
                rows = bench.plan(job, self.out, engine=engine, progress=progress)
            else:
                cells, errors = bench.run_bench(job, self.out, engine=engine, progress=progress)
        if self.plan:
            show_plan(rows, workers, console)
            return
        show_results(cells, errors, console)
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

    if images is not None and images < 1:
        raise InputError(f"images is {images}: give at least 1.")
    return subset(load(data, "test", **options), images)


def show_results(
    cells: "Sequence[Cell]", errors: Sequence[tuple[str, str]], console: Console | None = None
) -> None:
    """Print a table for each bundle, data set and order, and what failed."""
    from acclimate.report.summary import summarise
    from acclimate.report.table import show_table

    console = console or Console()
    tables = defaultdict(list)
    for cell in cells:
        tables[cell.bundle, cell.dataset, cell.order].append(cell)
    for (bundle, dataset, order), some in tables.items():
        console.print(f"{bundle} on {dataset}, {order}", highlight=False)
        show_table(summarise(some, list(dict.fromkeys(cell.method for cell in some))), console)
    for name, reason in errors:
        console.print(f"failed: {name}: {reason}", markup=False, highlight=False)


def show_plan(rows: "Sequence[Estimate]", workers: int, console: Console | None = None) -> None:
    """Print what is to be done, and how long it takes."""
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
    (console or Console()).print(table)


def _time(seconds: float) -> str:
    if seconds != seconds:
        return "fails"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
