"""Every method on CIFAR-10 at one small, equal budget: a table, with nothing tuned on it.

    python benchmarks/methods.py --data cifar10.zip --out runs/methods --results results/methods

DATA is a folder or zip of ``train/class/image`` and ``test/class/image``. A bundle is trained for
each recipe, all stages for the same number of epochs; then each method adapts to the same images.
Beside it stand its own bundle without adapting, and with batch norm's statistics alone, for these
explain most of what most methods gain. Killed, it resumes.
"""

import csv
import io
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from acclimate import machine
from acclimate.adapt import Adapter
from acclimate.bundle import Bundle
from acclimate.data import LabelledImages, corrupt, load, subset
from acclimate.errors import InputError
from acclimate.evaluate.cell import Cell
from acclimate.evaluate.engines import Workplace
from acclimate.evaluate.grid import run
from acclimate.evaluate.store import Store
from acclimate.evaluate.task import Grid, tasks_of
from acclimate.files import write_text
from acclimate.memory import keep_freed_memory
from acclimate.methods import METHODS, RECIPES
from acclimate.progress import live
from acclimate.source.loop import Run, Training
from acclimate.source.presets import PRESETS, STAGES, SourceSettings
from acclimate.source.train import train

COLUMNS = (
    "method", "bundle", "corruption", "accuracy", "images", "steps", "images_per_second",
    "forward_equivalents", "moving_parameters", "activation_bytes",
)  # fmt: skip


@dataclass(frozen=True)
class Arguments:
    """What to run on, and where to write."""

    data: str
    """CIFAR-10 as a folder or zip of split/class/image."""
    out: Path
    """Bundles, checkpoints and measurements."""
    results: Path | None = None
    """Where the table and the settings are written."""
    model: str = "acclimate:resnet8-w16"
    """The classifier of all methods but those that need a transformer."""
    transformer: str = "acclimate:vit6-w192-p4"
    """The classifier of ttt-mae."""
    epochs: int = 5
    """Of every stage."""
    train_images: int = 50_000
    """Source images, evenly spaced."""
    images: int = 500
    """Test images under each corruption, evenly spaced."""
    single_images: int = 200
    """The same for ttt's bundle, which learns from each image alone."""
    transformer_images: int = 50
    """The same for ttt-mae's, which does so 20 times with 128 masks."""
    corruptions: tuple[str, ...] = ("gaussian_noise", "defocus_blur", "fog", "pixelate")
    """At severity 5."""
    oracle_corruptions: int = 1
    """An oracle is trained anew for each: only for so many, and not for clean images."""
    recipes: tuple[str, ...] = tuple(RECIPES)
    """Which bundles to make."""
    seed: int = 0
    """Of everything."""


def settings(epochs: int) -> SourceSettings:
    """One budget for all; the rates follow from batches of 128, not from any result."""
    labelled = Training(
        epochs, 128, "sgd", learning_rate=0.1, final_learning_rate=1e-4, weight_decay=5e-4
    )
    unlabelled = Training(epochs, 128, learning_rate=1e-3, warm_up=1)
    kinds = {"supervised": labelled, "joint": labelled}
    stages = {stage: kinds.get(stage, unlabelled) for stage in STAGES}
    return replace(PRESETS["small"], cutout=0, **stages)


def main(arguments: Arguments) -> None:
    """Train, measure, write."""
    keep_freed_memory()
    source = subset(load(arguments.data, "train"), arguments.train_images)
    test = subset(load(arguments.data, "test"), arguments.images)
    rows = [
        row for recipe in arguments.recipes for row in measured(recipe, source, test, arguments)
    ]
    show(rows, arguments)
    if arguments.results:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(arguments.results / "results.csv", text.getvalue())
        record = {
            "arguments": {name: str(value) for name, value in asdict(arguments).items()},
            "stages": asdict(settings(arguments.epochs)),
            "adapters": {name: asdict(row.settings) for name, row in METHODS.items()},
            "machine": machine.describe(),
        }
        write_text(arguments.results / "settings.json", json.dumps(record, indent=2) + "\n")


def measured(
    recipe: str, source: LabelledImages, test: LabelledImages, arguments: Arguments
) -> Iterator[dict]:
    """The rows of a recipe's bundle: itself frozen, with batch statistics, and its methods."""
    names = [name for name, row in METHODS.items() if row.recipe == recipe]
    names = [*dict.fromkeys(["source", "ptbn", *names])]
    if RECIPES[recipe].transformer:
        names.remove("ptbn")  # no batch norm
        test = subset(test, arguments.transformer_images)
    elif any(METHODS[name].settings.one_by_one for name in names):
        test = subset(test, arguments.single_images)
    shifts = [("none", 0), *((name, 5) for name in arguments.corruptions)]
    oracle = any(METHODS[name].oracle for name in names)
    alone = [[shift] for shift in shifts[1 : 1 + arguments.oracle_corruptions]]
    for shift in alone if oracle else [shifts]:
        label = f"{recipe}-{shift[0][0]}" if oracle else recipe
        path = arguments.out / "bundles" / label
        if not path.exists():
            make(recipe, label, source, test, shift[0], arguments).save(path)
        corruptions = tuple(corruption for corruption, _ in shift)
        grid = Grid(corruptions, seeds=(arguments.seed,), methods=tuple(names))
        tasks = tasks_of(grid, {label: path}, test)
        place = Workplace({label: path}, {tasks[0].images: partial(subset, test, None)})
        with live() as progress, Store(arguments.out / "cells.sqlite") as store:
            run(tasks, store, place, progress=progress)
            cells = store.cells(tasks)
            for task, error in store.errors(tasks):
                raise InputError(f"{task} failed: {error}")
        bundle = Bundle.load(path)
        costs = {name: Adapter(bundle, name).cost() for name in names}
        yield from (row_of(cell, recipe, costs[cell.method]) for cell in cells)


def make(
    recipe: str,
    label: str,
    source: LabelledImages,
    test: LabelledImages,
    shift: tuple[str, int],
    arguments: Arguments,
) -> Bundle:
    """Train a recipe's bundle; an oracle is shown the target images, without labels."""
    name = next(name for name, row in METHODS.items() if row.recipe == recipe)
    target = None
    if METHODS[name].oracle:
        target = corrupt(test.images, *shift, seed=arguments.seed)
    started = time.perf_counter()
    with live() as progress:
        bundle = train(
            name,
            arguments.transformer if RECIPES[recipe].transformer else arguments.model,
            source,
            settings(arguments.epochs),
            Run(arguments.seed, arguments.out / "stages" / label, progress=progress),
            target=target,
        )
    print(f"{label}: trained in {time.perf_counter() - started:.0f} s", flush=True)
    return bundle


def row_of(cell: Cell, recipe: str, cost) -> dict:
    """A line of the result file."""
    return {
        "method": cell.method,
        "bundle": recipe,
        "corruption": cell.corruption,
        "accuracy": cell.accuracy,
        "images": cell.n_images,
        "steps": cell.steps,
        "images_per_second": round(cell.images_per_second, 2),
        "forward_equivalents": round(cost.forward_equivalents, 2),
        "moving_parameters": cost.moving_parameters,
        "activation_bytes": cost.activation_bytes,
    }


def show(rows: list[dict], arguments: Arguments) -> None:
    """The table, in percent."""
    shifts = ("none", *arguments.corruptions)
    table = Table("method", "bundle", *shifts, "mean", "cost")
    for method, bundle in dict.fromkeys((row["method"], row["bundle"]) for row in rows):
        found = {
            row["corruption"]: row
            for row in rows
            if (row["method"], row["bundle"]) == (method, bundle)
        }
        cells = [
            f"{100 * found[shift]['accuracy']:.1f}" if shift in found else "-" for shift in shifts
        ]
        corrupted = [found[shift]["accuracy"] for shift in shifts[1:] if shift in found]
        mean = f"{100 * sum(corrupted) / len(corrupted):.1f}"
        cost = next(iter(found.values()))["forward_equivalents"]
        table.add_row(method, bundle, *cells, mean, f"{cost:.0f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
