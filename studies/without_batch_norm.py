r"""Online methods on networks without batch norm: a ResNet with group norm, a small transformer.

    python studies/without_batch_norm.py --data cifar10.zip --out runs/without-batch-norm \
        --results results/without-batch-norm

Both are trained here on four fifths of the training images, and each gets an aligned twin. The
parts are all methods on the 15 corruptions, each begun anew and one after the other; MEMO on few
images; SAR's streams: single images, mixed shifts, classes that come close together; FOA's passes
and batch sizes, on the transformer; and changes of our default, on the held-out fifth under the
four corruptions that no table reports. An interrupted study resumes; ``--plan`` says how long it
takes.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Literal, get_args

import anchor
from bundles import in_processes, was_made
from methods import publish, run_all
from ours import ALIGNED, EVERY, held_out, test
from rich.console import Console
from rich.table import Table

from acclimate.bundle import Bundle
from acclimate.commands.script import finish, recorded_options, start, write_table
from acclimate.data import hold_out, load, subset
from acclimate.data.corruptions import PUBLISHED
from acclimate.evaluate.cell import CLEAN
from acclimate.evaluate.grid_run import GridRun
from acclimate.evaluate.protocols import protocol_name, under
from acclimate.evaluate.store import Measured
from acclimate.evaluate.task import Grid
from acclimate.evaluate.variant import Variant
from acclimate.methods import METHODS as ROWS
from acclimate.report.measured import read_grid
from acclimate.runtime.memory import keep_freed_memory
from acclimate.runtime.progress import live
from acclimate.source.aligned import align
from acclimate.source.held_out import SHIFTS
from acclimate.source.loop import Run, Training
from acclimate.source.presets import PRESETS
from acclimate.source.train import train

Part = Literal["reset", "hard", "held-out", "forward", "continual", "teachers", "memo"]


@dataclass(frozen=True)
class Network:
    """An architecture, how its classifier is trained, and SAR's learning rate for its kind."""

    model: str
    supervised: Training
    rate: float
    """For batches of 64."""
    slower_below: int
    """Batches of fewer images get a rate in proportion; single images get twice that."""


NETWORKS = {
    "resnet-gn": Network(
        "acclimate:resnet14-w16-gn",
        Training(12, 128, "sgd", 0.1, 1e-4, warm_up=1, weight_decay=5e-4),
        2.5e-4,
        32,
    ),
    "vit": Network("acclimate:vit4-w64-p4", Training(20, 128, learning_rate=1e-3), 1e-3, 64),
}
"""By the names of their bundles. Nothing in their training was tuned."""
METHODS = (
    *("source", "tent", "eta", "eata", "sar", "deyo", "shot-im", "roid", "cmf", "t3a", "lame"),
    *("note", "aligned", "cta", "acclimate"),
)
"""Methods of both networks; ``foa`` comes with the transformer, and ``memo`` with few images."""
TEACHERS = ("cotta", "rmt", "petta", "rotta")
"""Methods whose teacher follows by a thousandth at each step; in a short stream it stands still."""
HARD = ("source", "tent", "sar", "acclimate")
"""Methods on single images, on mixed shifts, and where classes come close together."""
THRESHOLD = 0.067
"""SAR's threshold for 10 classes: 0.2 · log 10 / log 1000."""
FORWARD = ("source", "tent", "foa", "foa:correction=none", "foa:steps=0")
"""FOA, its prompts alone, and its shift of the features alone, beside TENT."""
RATE = "update.learning_rate"
_INFORMATION = {"objective": "information", "selection": "all"}
CANDIDATES = tuple(
    str(Variant.of("acclimate", changes))
    for changes in (
        {},
        {RATE: 1e-3},
        {RATE: 3e-4},
        {"reset": "batch"},
        {"steps": 0},
        {"steps": 0, "answer.flip": False},
        _INFORMATION,
        _INFORMATION | {RATE: 1e-3},
    )
)
"""Changes of our default that may mend it where its steps harm; the last two have SHOT's loss."""


@dataclass(frozen=True)
class Arguments:
    """Data, folders, and how much is measured."""

    data: str
    """CIFAR-10 as train/CLASS/IMAGE and test/CLASS/IMAGE: a folder or a zip."""
    out: Path
    """Folder for bundles and measurements."""
    results: Path | None = None
    """Folder for the results that are kept."""
    parts: tuple[Part, ...] = get_args(Part)
    """What is measured."""
    networks: tuple[str, ...] = tuple(NETWORKS)
    """Networks to train and to measure."""
    images: int = 1000
    """Test images under each corruption; the held-out streams are as long."""
    few: int = 64
    """Test images that come one by one, in FOA's small batches, and for MEMO's 100 passes."""
    batch: int = 64
    """Images that arrive together, but where small batches are the subject."""
    small: tuple[int, ...] = (16, 4)
    """Sizes of FOA's small batches."""
    corruptions: tuple[str, ...] = PUBLISHED
    """Corruptions at severity 5."""
    workers: int = 2
    """Processes, each with one thread."""
    plan: bool = False
    """Only say what is to be measured, and how long it takes; trains all the same."""


def main(arguments: Arguments) -> None:
    """Train, measure, and write what is kept."""
    keep_freed_memory()
    in_processes(partial(make, arguments), arguments.networks, arguments.workers, "bundles")
    folders = {kind: arguments.out / kind for kind in ("grid", "held-out")}
    for kind, folder in folders.items():
        jobs = [job for part, job in grids(arguments) if (part == "held-out") == (kind != "grid")]
        run_all(jobs, folder, workers=arguments.workers, only_plan=arguments.plan)
    if arguments.plan:
        return
    for kind, folder in folders.items():
        if folder.exists():
            keep(folder, arguments.results, "summary" if kind == "grid" else "held_out")
    if arguments.results:
        publish(folders["grid"], arguments.results)
        options = {"options": recorded_options(arguments)}
        finish(options, 0, arguments.results / "settings.json")


def make(arguments: Arguments, label: str) -> None:
    """Train a classifier and align its twin as in ours.py, unless that was done."""
    path, network, small = arguments.out / label, NETWORKS[label], PRESETS["small"]
    plain = path.with_name(f"{label}.classifier")
    source, _ = hold_out(load(arguments.data, "train"), EVERY)
    settings = replace(
        small, cutout=0, supervised=network.supervised, align=replace(small.align, epochs=3)
    )
    with live() as progress:
        run = Run(0, path.with_name(f"{label}.stages"), progress=progress)
        if not was_made(plain, network.model, settings, source.images):
            train("tent", network.model, source, settings, run).save(plain)
        if not path.exists():
            align(
                network.model,
                subset(source, ALIGNED).images,
                weights=plain / "weights.safetensors",
                classes=source.classes,
                preprocessing=Bundle.load(plain).preprocessing,
                settings=settings,
                run=run,
            ).save(path)


def grids(arguments: Arguments) -> Iterator[tuple[Part, GridRun]]:
    """The grids of all parts, one for each network: of several, only the first gets all methods."""
    for part in arguments.parts:
        for label in arguments.networks:
            bundles = {label: arguments.out / label}
            for grid, count in of_part(part, arguments, label):
                load_images = held_out if part == "held-out" else test
                yield part, GridRun(grid, bundles, (partial(load_images, arguments.data, count),))


def of_part(part: Part, arguments: Arguments, label: str) -> Iterator[tuple[Grid, int]]:
    """The grids of a part, and on how many images."""
    network, batch, few = NETWORKS[label], arguments.batch, arguments.few
    corrupted = Grid(arguments.corruptions, batch=batch, curve=False)
    whole = replace(corrupted, corruptions=(CLEAN, *arguments.corruptions))
    transformer = "vit" in network.model
    names = METHODS + ("foa",) * transformer + names_of(network, batch)
    if part == "reset":
        yield under("reset", replace(whole, methods=names)), arguments.images
    elif part == "continual":
        yield under("continual", replace(corrupted, methods=names)), arguments.images
    elif part == "teachers":
        yield under("continual", replace(corrupted, methods=TEACHERS)), arguments.images
    elif part == "memo":
        yield replace(whole, methods=("source", "memo")), few
    elif part == "hard":
        grid = replace(corrupted, methods=HARD + names_of(network, batch))
        yield under("class-correlated", grid), arguments.images
        yield under("mixed", grid), arguments.images
        yield replace(corrupted, methods=HARD + names_of(network, 1), batch=1), few
    elif part == "forward" and transformer:
        for protocol in ("reset", "continual"):
            yield under(protocol, replace(corrupted, methods=FORWARD)), arguments.images
        for size in arguments.small:
            yield replace(corrupted, methods=FORWARD, batch=size), few
    elif part == "held-out":
        chosen = replace(whole, corruptions=(CLEAN, *SHIFTS), methods=("source", *CANDIDATES))
        yield under("reset", chosen), arguments.images
        yield under("continual", replace(chosen, corruptions=SHIFTS)), arguments.images


def as_sar(network: Network, batch: int) -> dict[str, Variant]:
    """TENT as in SAR's paper, SAR at its rate for a network and batch, and that for 10 classes."""
    rate = network.rate * min(batch / network.slower_below, 1) * (2 if batch == 1 else 1)
    plain = {"update": "sgd", "update.momentum": 0.9, "update.parameters": "norm"}
    return {
        "tent, as in SAR's paper": Variant.of("tent", plain | {RATE: rate, "answer": "before"}),
        "sar, at SAR's rate": Variant.of("sar", {RATE: rate}),
        "sar, for 10 classes": Variant.of("sar", {RATE: rate, "reset.threshold": THRESHOLD}),
    }


def names_of(network: Network, batch: int) -> tuple[str, ...]:
    """The variants of `as_sar` but for SAR as its row is."""
    row = ROWS["sar"].settings
    return tuple(str(each) for each in as_sar(network, batch).values() if each.settings != row)


def keep(folder: Path, results: Path | None, name: str) -> None:
    """Print the mean over the corruptions of each method, and write it."""
    measured = read_grid(folder)[0]
    rows = summary(measured)
    if name == "held_out":
        agreed = agreement(measured)
        labels = ("protocol", "bundle", "method")
        rows = [row | {"agreement": agreed[tuple(str(row[n]) for n in labels)]} for row in rows]
    shown = ("protocol", "batch", "bundle", "called", "images", "clean", "corrupted", "gain")
    table = Table(*shown)
    for row in rows:
        table.add_row(*(str(row[column]) for column in shown))
    Console(width=160).print(table)
    if results:
        results.mkdir(parents=True, exist_ok=True)
        write_table(results / f"{name}.csv", rows)


def summary(measured: Sequence[Measured]) -> list[dict[str, object]]:
    """`anchor.summary` for each size of batches, with what methods are called."""
    sizes = dict.fromkeys(each.cell.batch for each in measured)
    return [
        {"batch": size, "called": called(row, size)} | row
        for size in sizes
        for row in anchor.summary([each for each in measured if each.cell.batch == size])
    ]


def called(row: Mapping[str, object], batch: int) -> str:
    """What a method is called in tables: its name, or one of `as_sar`."""
    network = NETWORKS.get(str(row["bundle"]))
    variants = as_sar(network, batch) if network else {}
    names = {str(variant): name for name, variant in variants.items()}
    return names.get(str(row["method"]), str(row["method"]))


def agreement(measured: Sequence[Measured]) -> dict[tuple[str, ...], float]:
    """Share of a method's answers under corruptions that are the frozen classifier's when clean.

    No label is needed for it: a setting may be chosen by it.

    Returns:
        The mean over the corruptions, by protocol, bundle and method.
    """
    clean, found = {}, defaultdict(list)
    for each in measured:
        cell, answers = each.cell, each.cell.answers
        if cell.corruption == CLEAN and cell.variant == Variant("source") and answers:
            clean[cell.bundle] = answers
    for each in measured:
        cell, answers = each.cell, each.cell.answers
        if cell.corruption != CLEAN and answers:
            key = (protocol_name(cell.order, cell.window), cell.bundle, str(cell.variant))
            frozen = clean[cell.bundle]
            same = frozen.predictions[frozen.of(answers.numbers)] == answers.predictions
            found[key].append(float(same.mean()))
    return {key: round(mean(values), 5) for key, values in found.items()}


if __name__ == "__main__":
    start(main, Arguments)
