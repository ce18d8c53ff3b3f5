r"""All online methods on the 15 corruptions, each begun anew and one after the other.

    python studies/anchor.py --data cifar10.zip --weights resnet20.safetensors --out runs/ours \
        --results results/anchor

The public network of ours.py, whose folder OUT is used, and whatever bundles are named with
``--bundles``. Batches of 200, 10,000 images under each corruption at severity 5: the settings of
the field's tables. An interrupted study resumes, ``--plan`` says how long it takes, and another run
with other methods, protocols or seeds adds to the results.
"""

import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from methods import run_all
from ours import Network, make_twin, test
from rich.console import Console
from rich.table import Table
from score import scores

from acclimate.backbones.code import trusted_code
from acclimate.commands.script import finish, recorded_options, start, write_table
from acclimate.data.corruptions import PUBLISHED
from acclimate.evaluate.cell import CLEAN
from acclimate.evaluate.grid_run import MANIFEST, RESULTS, GridRun
from acclimate.evaluate.protocols import protocol_name, under
from acclimate.evaluate.store import Measured
from acclimate.evaluate.task import Grid
from acclimate.report.measured import read_grid
from acclimate.runtime.memory import keep_freed_memory

METHODS = (
    *("source", "ptbn", "bn-adapt", "tent", "eta", "eata", "sar", "deyo", "shot-im"),
    *("roid", "cmf", "t3a", "lame", "rmt", "petta", "cotta", "rotta", "note"),
    *("aligned", "aligned-bn", "cta", "acclimate"),
)
"""In the order of their families. cta-paper, with twenty steps, takes as long as all of them."""


@dataclass(frozen=True)
class Arguments(Network):
    """Data, weights, and what is measured."""

    bundles: tuple[Path, ...] = ()
    """More bundles to measure, by the names of their folders."""
    methods: tuple[str, ...] = METHODS
    """Methods and variants."""
    protocols: tuple[str, ...] = ("reset", "continual")
    """Names of `acclimate.evaluate.protocols.PROTOCOLS`."""
    images: int = 10_000
    """Test images under each corruption."""
    batch: int = 200
    """Images that arrive together."""
    corruptions: tuple[str, ...] = PUBLISHED
    """Corruptions at severity 5, beside clean images where each comes by itself."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of order, corruptions and views."""
    workers: int = 2
    """Processes, each with one thread."""
    plan: bool = False
    """Only say what is to be measured, and how long it takes."""


def main(arguments: Arguments) -> None:
    """Measure, and write what is kept of all runs into the folder."""
    keep_freed_memory()
    folder = arguments.out / "anchor"
    with trusted_code():  # of this repository: the network's own
        make_twin(arguments)
        run_all(grids(arguments), folder, workers=arguments.workers, only_plan=arguments.plan)
    if arguments.plan:
        return
    rows = summary(read_grid(folder)[0])
    shown = ("protocol", "bundle", "method", "seeds", "clean", "corrupted", "gain", "passes")
    table = Table(*shown)
    for row in rows:
        table.add_row(*(str(row[name]) for name in shown))
    Console().print(table)
    if arguments.results:
        arguments.results.mkdir(parents=True, exist_ok=True)
        write_table(arguments.results / "summary.csv", rows)
        for name in (RESULTS, MANIFEST):
            shutil.copy(folder / name, arguments.results / name)
        settings = {"options": recorded_options(arguments)}
        finish(settings, arguments.seeds[0], arguments.results / "settings.json")


def grids(arguments: Arguments) -> Iterator[GridRun]:
    """One grid of all protocols in batches, and one of each in windows."""
    paths = (arguments.out / arguments.network, *arguments.bundles)
    bundles = {path.name: path for path in paths}
    load = partial(test, arguments.data, arguments.images)
    grid = Grid(
        (CLEAN, *arguments.corruptions),  # a stream of several shifts leaves clean images out
        seeds=arguments.seeds,
        methods=arguments.methods,
        batch=arguments.batch,
        curve=False,
    )
    each = [under(protocol, grid) for protocol in arguments.protocols]
    orders = tuple(order for one in each if not one.window for order in one.orders)
    joined = [replace(grid, orders=orders)] if orders else []
    for grid in (*joined, *(one for one in each if one.window)):
        yield GridRun(grid, bundles, (load,))


def summary(measured: Sequence[Measured]) -> list[dict[str, object]]:
    """Means over the corruptions, with intervals; gains over the frozen classifier are paired."""
    groups: dict[tuple[str, int], list[Measured]] = defaultdict(list)
    for each in measured:
        protocol = protocol_name(each.cell.order, each.cell.window)
        groups[protocol, each.cell.batch].append(each)
    rows = []
    for (protocol, batch), mine in groups.items():
        passes = {
            (each.cell.bundle, str(each.cell.variant)): each.cell.forward_equivalents
            for each in mine
        }
        for score in scores(mine):
            row = {"protocol": protocol, "batch": batch} | asdict(score)
            del row["published"]
            rows.append(row | {"passes": round(passes[score.bundle, score.method], 1)})
    return rows


if __name__ == "__main__":
    start(main, Arguments)
