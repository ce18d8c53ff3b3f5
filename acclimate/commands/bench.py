"""``acclimate bench``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from acclimate.commands.common import check_folder, check_limit, check_settings_file, labelled
from acclimate.commands.pixels import pixels_of
from acclimate.errors import InputError

if TYPE_CHECKING:
    from acclimate.data import LabelledImages
    from acclimate.evaluate.grid import Estimate
    from acclimate.evaluate.store import Measured
    from acclimate.evaluate.task import Grid
    from acclimate.runtime.workers import Engine


@dataclass(frozen=True)
class Bench:
    """Measure methods on corrupted images or on domains: every combination, resumed if stopped.

    Each bundle is measured with the methods that it was made for and, beside them, frozen and with
    batch statistics. Grids run into the same folder are reported together.

    Example: acclimate bench supervised cta ttt --data cifar10.zip --out runs/main --images 2000

    Example: acclimate bench cta --data cifar10.zip --out runs/main --seeds 0 1 2 --plan

    Example: acclimate bench cta --data cifar10.zip --out runs/main
    --methods source ptbn ptbn:normalisation.prior=256 cta:update.learning_rate=0,steps=3

    Example: acclimate bench cta --data cifar10.zip --out runs/main --protocol continual --batch 200

    Example: acclimate bench cta --data cifar10-c --root data --domains fog/5 snow/5 --out runs/c
    """

    bundles: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of bundles; methods that learn with any classifier take the first."""
    data: str
    """A data set by name, such as fashion-mnist-mini, or cifar10 with --root; a folder
    test/class/image; or a zip of one."""
    out: Path
    """Folder of cells.sqlite, results.csv and manifest.json."""
    methods: tuple[str, ...] = ()
    """Names that acclimate methods lists, or variants with changed settings, such as
    ptbn:normalisation.prior=256 or cta:update.learning_rate=0,steps=3."""
    settings: Path | None = None
    """A file that acclimate advise wrote, for one bundle: its method beside the frozen classifier,
    and its batch, unless --methods and --batch are given. The guard is not measured."""
    corruptions: tuple[str, ...] | None = None
    """Names of corruptions; none is clean images. Without it none and the benchmark's fifteen."""
    domains: tuple[str, ...] = ()
    """Domains of a set that has them, each with images of its own, measured as they are: sketch
    (pacs), fog/5 (cifar10-c)."""
    severities: tuple[int, ...] = (5,)
    """Severities of each corruption, 1 to 5."""
    protocol: str | None = None
    """How images arrive, by the name of a protocol of the field: reset (at each corruption),
    continual, gradual, mixed, recurring, class-correlated, class-correlated-continual,
    class-correlated-gradual, class-correlated-mixed, single-images."""
    orders: tuple[str, ...] | None = None
    """Orders of arrival in place of a protocol: shuffled (the default), label-shifted,
    growing-noise, and protocols' names but reset and single-images."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of order, corruption and views."""
    images: int | None = None
    """Number of test images, evenly spaced; all without it."""
    batch: int | None = None
    """Images that arrive together; default: 128, or 1 for single images."""
    window: int = 0
    """Length of the sliding window that single images pass through; default: without one, or 16
    with --protocol single-images."""
    parts: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also measure each method with its parts switched off in turn: what each part of its gain is,
    for the report."""
    curve: bool = True
    """Record the accuracy before and after each gradient step."""
    workers: int | None = None
    """Processes that measure at the same time; without it one for each core, or for each GPU."""
    threads: int = 1
    """Threads of each process."""
    engine: Literal["processes", "ray"] = "processes"
    """Where to measure: processes of this machine, or a Ray cluster."""
    ray_address: str | None = None
    """Address of the cluster, such as auto or 10.0.0.1:6379; default: one that runs here, or a new
    one."""
    memory_limit: Annotated[str | None, tyro.conf.arg(aliases=("--memory",))] = None
    """The most memory that each process may hold, such as 4GB; default: what is free. The results
    are the same."""
    plan: bool = False
    """Only say what would be run, and how long it takes."""
    root: Path | None = None
    """Folder of a named data set."""
    size: int | None = None
    """Resize images to squares of this many pixels; default: as the bundles' preprocessing."""
    trust_code: bool = False
    """Allow running the function that a bundle names as its architecture."""

    def run(self, console: Console) -> None:
        """Do it."""
        from acclimate.evaluate import grid_run
        from acclimate.runtime.progress import live

        check_folder(self.out)
        check_limit(self.memory_limit)
        bundles = labelled(self.bundles)
        check_settings_file(self.settings, *self.bundles)
        job = grid_run.GridRun(
            self._grid(), bundles, self._loads(), self._options(bundles), self.memory_limit
        )
        notes: list[str] = []
        with self._engine() as (engine, workers), live() as progress:
            if self.plan:
                rows = grid_run.plan(job, self.out, engine=engine, progress=progress)
            else:
                measured, errors = grid_run.run_grid(
                    job, self.out, engine=engine, progress=progress, say=notes.append
                )
        if self.plan:
            show_plan(rows, workers, console)
            return
        show_results(measured, errors, console)
        for note in notes:
            console.print(f"note: {note}", markup=False, highlight=False)
        console.print(f"results are in {self.out / grid_run.RESULTS}", highlight=False)
        if measured:
            console.print(f"acclimate report {self.out} shows them as a page", highlight=False)
        if errors:
            raise SystemExit(1)

    @contextmanager
    def _engine(self) -> "Iterator[tuple[Engine, int]]":
        """Where to measure, and how many tasks at a time."""
        from acclimate.runtime.workers import processes, usual_workers

        if self.engine == "ray":
            from acclimate.evaluate.ray_cluster import RayCluster

            with RayCluster(self.ray_address, self.workers, self.threads) as cluster:
                yield cluster, cluster.workers
            return
        if self.ray_address is not None:
            raise InputError("--ray-address is for --engine ray; give both or neither.")
        workers = usual_workers(self.threads) if self.workers is None else self.workers
        yield processes(workers, self.threads), workers

    def _grid(self) -> "Grid":
        from acclimate.data.corruptions import PUBLISHED
        from acclimate.evaluate.protocols import under
        from acclimate.evaluate.task import Grid

        usual = () if self.domains else ("none", *PUBLISHED)
        single = self.window > 0 or self.protocol == "single-images"
        if self.protocol is not None and self.orders is not None:
            raise InputError("a protocol says in which order images come; leave --orders out.")
        if self.window and self.protocol not in (None, "single-images"):
            raise InputError("--window is for single images; choose --protocol single-images.")
        if single and self.batch not in (None, 1):
            raise InputError(f"single images come one by one; leave --batch {self.batch} out.")
        methods, batch = self._methods_and_batch()
        grid = Grid(
            corruptions=usual if self.corruptions is None else self.corruptions,
            severities=self.severities,
            orders=("shuffled",) if self.orders is None else self.orders,
            seeds=self.seeds,
            methods=methods,
            batch=1 if single else batch,
            curve=self.curve,
            window=self.window,
            parts=self.parts,
        )
        return grid if self.protocol is None else under(self.protocol, grid)

    def _methods_and_batch(self) -> tuple[tuple[str, ...], int]:
        """What is given, else what the settings file says, else what is usual."""
        methods, batch = self.methods, 128
        if self.settings is not None:
            from acclimate.advise.settings_file import load

            file = load(self.settings)
            batch = file.batch
            methods = methods or tuple(dict.fromkeys(("source", str(file.variant))))
        return methods, batch if self.batch is None else self.batch

    def _options(self, bundles: dict[str, Path]) -> dict[str, Any]:
        """What the manifest must hold, besides the grid, to run it again."""
        given = {"data": self.data, "root": self.root, "size": self.size, "threads": self.threads}
        shown = {name: value for name, value in given.items() if value is not None}
        shown |= {"images": self.images} if self.images is not None else {}
        shown |= {"trust_code": True} if self.trust_code else {}
        return shown | {"bundles": {label: str(path) for label, path in bundles.items()}}

    def _loads(self):
        size = pixels_of(labelled(self.bundles)) if self.size is None else self.size
        options = {"root": self.root, "size": size}
        return tuple(
            partial(_some, self.data, self.images, options | {"domain": domain})
            for domain in self.domains or (None,)
        )


def _some(data: str, images: int | None, options: dict) -> "LabelledImages":
    from acclimate.data import load, subset

    if images is not None and images < 1:
        raise InputError(f"images is {images}: give at least 1.")
    return subset(load(data, "test", **options), images)


def show_results(
    measured: "Sequence[Measured]",
    errors: Sequence[tuple[str, str]],
    console: Console | None = None,
) -> None:
    """Print a table for each protocol, and what failed."""
    from acclimate.report.comparison import compare
    from acclimate.report.measured import by_protocol, held_out_of
    from acclimate.report.table import show_table
    from acclimate.report.warnings import warnings_of

    console = console or Console()
    for protocol, cells in by_protocol(measured).items():
        table = compare(cells, held_out_of(cells))
        warnings = warnings_of(table, protocol.together)
        show_table(table, console, title=f"{protocol}: accuracy, %", warnings=warnings)
    for name, reason in errors:
        console.print(f"failed: {name}: {reason}", markup=False, highlight=False)


def show_plan(rows: "Sequence[Estimate]", workers: int, console: Console | None = None) -> None:
    """Print what is to be done, and how long it takes."""
    table = Table("bundle", "method", title="To be measured", title_justify="left", box=None)
    for name in ("runs", "done", "images left", "time"):
        table.add_column(name, justify="right")
    for row in rows:
        figures = (f"{row.tasks}", f"{row.done}", f"{row.images:,}", _time(row.seconds))
        table.add_row(row.bundle, str(row.variant), *figures)
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
