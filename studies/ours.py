r"""A default of ours: which steps, statistics and answers pay on an aligned twin.

    python studies/ours.py --data cifar10.zip --weights resnet20.safetensors --out runs/ours \
        --results results/ours

A public ResNet-20 is aligned with 8,000 unlabelled training images. Candidates are measured on
training images that it was not aligned with, clean and under the four corruptions that no table
reports, in several lengths, batch sizes and orders. ``--part fifteen`` then measures what was
chosen, beside other methods, on test images under the 15 reported corruptions. An interrupted study
resumes; ``--plan`` says how long a part takes.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Literal

from along import along
from methods import run_all
from ours_candidates import (
    CHANGES,
    CORRELATED,
    FIFTEEN,
    FINALISTS,
    FORGETTING,
    REFERENCES,
    ROW,
    SMALL,
    name_of,
    variants,
)
from rich.console import Console
from rich.table import Table

from acclimate.backbones.code import trusted_code
from acclimate.commands.script import finish, recorded_options, start, write_table
from acclimate.data import LabelledImages, hold_out, load, subset
from acclimate.data.corruptions import PUBLISHED
from acclimate.evaluate.cell import CLEAN, Cell
from acclimate.evaluate.grid_run import GridRun
from acclimate.evaluate.task import Grid
from acclimate.methods import METHODS
from acclimate.methods.changes import settings_record
from acclimate.preprocessing import Preprocessing
from acclimate.runtime.memory import keep_freed_memory
from acclimate.runtime.progress import live
from acclimate.source.aligned import align
from acclimate.source.held_out import SHIFTS
from acclimate.source.loop import Run
from acclimate.source.presets import PRESETS

Part = Literal["screening", "small", "finalists", "forgetting", "fifteen"]

EVERY = 5
"""One of so many training images is held out: 10,000."""
ALIGNED = 8000
"""Unlabelled training images that the twin is aligned with."""
SMALL_BATCHES = {16: 1000, 4: 500, 1: 250}
"""Numbers of images, by the size of the batches."""
COLUMNS = ("candidate", "order", "batch", "images")


@dataclass(frozen=True)
class Network:
    """The public network, its data, and the folders of a study of it."""

    data: str
    """CIFAR-10 as train/CLASS/IMAGE and test/CLASS/IMAGE: a folder or a zip."""
    weights: Path
    """The network's, of github.com/akamaster/pytorch_resnet_cifar10, as .safetensors."""
    out: Path
    """Folder for the bundle and the measurements; studies of this network may share it."""
    results: Path | None = None
    """Folder for the results that are kept, one for each network."""
    network: Literal["resnet20", "resnet56"] = "resnet20"
    """The network that the weights are of; also the name of its bundle in the folder."""


@dataclass(frozen=True)
class Arguments(Network):
    """Data, weights, and what is measured."""

    part: Part = "screening"
    """Candidates on streams of ``images``; a few of them in small batches; finalists on 500 and
    10,000 images; what forgets, where all shifts come back 20 times, with ``images`` each time; or
    the chosen one on test images under the 15 reported corruptions."""
    images: int = 2000
    """Held-out images of each stream of the screening, and test images under each of the 15."""
    shifts: tuple[str, ...] = (CLEAN, *SHIFTS)
    """Held-out corruptions, of those that no table reports, and none."""
    candidates: tuple[str, ...] = ()
    """Names of candidates; all of a part without it."""
    orders: tuple[str, ...] = ("shuffled", "class-correlated")
    """Orders of arrival; finalists come shuffled, and with ``continual`` also without a reset."""
    lengths: tuple[int, ...] = (500, 10_000)
    """Lengths of the streams of the finalists."""
    epochs: int = 3
    """Epochs of the alignment, after one of the contrastive stage."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of order, corruptions and views."""
    workers: int = 1
    """Processes, each with one thread."""
    plan: bool = False
    """Only say what is to be measured, and how long it takes."""


def main(arguments: Arguments) -> None:
    """Align, measure a part, and write what is kept of it."""
    keep_freed_memory()
    with trusted_code():  # of this repository: the network's own
        make_twin(arguments, epochs=arguments.epochs)
        jobs = grids(arguments)
        folder = arguments.out / "grid"
        measured = run_all(jobs, folder, workers=arguments.workers, only_plan=arguments.plan)
    if arguments.plan:
        return
    rows = summary([each.cell for each in measured])
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)
    if arguments.results:
        write_table(arguments.results / f"{arguments.part}.csv", rows)
        if arguments.part == "forgetting":
            write_table(arguments.results / "forgetting_along.csv", list(along(measured, ())))
        options = recorded_options(arguments)
        result = {"options": options, ROW: settings_record(METHODS[ROW].settings)}
        finish(result, arguments.seeds[0], arguments.results / f"{arguments.part}.json")


def make_twin(arguments: Network, *, epochs: int = 3) -> None:
    """Align the public classifier, unless that was done."""
    path = arguments.out / arguments.network
    if path.exists():
        return
    rest, _ = hold_out(load(arguments.data, "train"), EVERY)
    preset = PRESETS["small"]
    stages = {"contrastive": replace(preset.contrastive, epochs=1)}
    stages["align"] = replace(preset.align, epochs=epochs)
    with live() as progress:
        align(
            f"public_networks:{arguments.network}",
            subset(rest, ALIGNED).images,
            weights=arguments.weights,
            classes=rest.classes,
            preprocessing=Preprocessing(32),
            settings=replace(preset, **stages),
            run=Run(0, path.with_name(f"{path.name}.stages"), progress=progress),
        ).save(path)


def grids(arguments: Arguments) -> Iterator[GridRun]:
    """The grids of a part."""
    part, orders = arguments.part, arguments.orders
    grid = Grid(arguments.shifts, seeds=arguments.seeds, batch=200, curve=False)
    bundles = {arguments.network: arguments.out / arguments.network}

    def job(names: Sequence[str], count: int, **changes: object) -> GridRun:
        chosen = [name for name in names if name in (arguments.candidates or names)]
        methods = (*REFERENCES, *variants(chosen))
        load_images = partial(held_out, arguments.data, count)
        return GridRun(replace(grid, methods=methods, **changes), bundles, (load_images,))

    if part == "screening":
        for order in orders:
            names = tuple(CHANGES) if order == "shuffled" else CORRELATED
            yield job(names, arguments.images, orders=(order,))
    elif part == "small":
        for batch, count in SMALL_BATCHES.items():
            yield job(SMALL, count, batch=batch, orders=orders)
    elif part == "finalists":
        for count in arguments.lengths:
            yield job(FINALISTS, count)
        if "continual" in orders:
            shifts = tuple(name for name in arguments.shifts if name != CLEAN)
            yield job(FINALISTS, arguments.images, corruptions=shifts, orders=("continual",))
    elif part == "forgetting":
        shifts = tuple(name for name in arguments.shifts if name != CLEAN)
        yield job(FORGETTING, arguments.images, corruptions=shifts, orders=("recurring",))
    else:
        fifteen = replace(grid, corruptions=(CLEAN, *PUBLISHED), methods=FIFTEEN)
        yield GridRun(fifteen, bundles, (partial(test, arguments.data, arguments.images),))


def held_out(data: str, count: int) -> LabelledImages:
    """Training images that the twin was not aligned with."""
    return subset(hold_out(load(data, "train"), EVERY)[1], count)


def test(data: str, count: int) -> LabelledImages:
    """Test images."""
    return subset(load(data, "test"), count)


def summary(cells: Sequence[Cell]) -> list[dict[str, object]]:
    """Accuracies in percent of each candidate, clean and under each corruption, and their mean."""
    found: dict[tuple, dict[str, list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        key = (name_of(cell.variant), cell.order, cell.batch, cell.n_images)
        found[key][cell.corruption].append(cell)
    corruptions = list(dict.fromkeys(cell.corruption for cell in cells))
    rows = []
    for key, of in found.items():
        each = {n: 100 * mean(c.accuracy for c in of[n]) for n in corruptions if n in of}
        shifted = mean(value for name, value in each.items() if name != CLEAN)
        row = dict(zip(COLUMNS, key)) | {
            "passes": round(next(iter(of.values()))[0].forward_equivalents, 2)
        }
        row |= {"clean": round(each[CLEAN], 2) if CLEAN in each else "", "mean": round(shifted, 2)}
        names = [name for name in corruptions if name != CLEAN]
        rows.append(row | {name: round(each[name], 2) if name in each else "" for name in names})
    return rows


if __name__ == "__main__":
    start(main, Arguments)
