"""Every method on one data set at one equal source budget, with nothing tuned on it.

    python studies/methods.py --data cifar10.zip --out runs/methods --results results/methods

DATA is a folder or zip of ``train/class/image`` and ``test/class/image``. A bundle is trained for
each recipe, all stages for the same number of epochs; then each method adapts to the same images
(`acclimate.evaluate.bench`). Beside it stand its own bundle without adapting, and with batch norm's
statistics alone, for these explain most of what most methods gain. Killed, it resumes;
``--plan`` says how long the measuring takes, once the bundles are there.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from bundles import FOUR, Budget, Job, settings, test_images, train_all

from acclimate.commands.bench import show_plan, show_results
from acclimate.commands.script import start, told
from acclimate.errors import InputError, unknown_name
from acclimate.evaluate.bench import MANIFEST, RESULTS, Bench, plan, run_bench
from acclimate.evaluate.cell import Cell
from acclimate.evaluate.engines import processes
from acclimate.evaluate.measure import LR0
from acclimate.evaluate.task import Grid
from acclimate.methods import METHODS, RECIPES
from acclimate.runtime import machine
from acclimate.runtime.progress import live
from acclimate.storage.atomic import write_text

ORACLE = next(row.recipe for row in METHODS.values() if row.oracle)
SINGLE = [
    name
    for name, row in METHODS.items()
    if row.settings.one_by_one and row.settings.reset == "batch"
]
"""They learn from each image alone, many steps: measured on fewer."""


@dataclass(frozen=True)
class Arguments(Budget):
    """What to run on, and where to write."""

    results: Path | None = None
    """Where results.csv, the manifest and the settings are copied."""
    transformer: str = "acclimate:vit6-w192-p4"
    """The classifier of ttt-mae."""
    images: int = 500
    """Test images under each corruption, evenly spaced."""
    single_images: int = 200
    """The same for ttt, which learns from each image alone."""
    transformer_images: int = 60
    """The same for ttt-mae, which does so 20 times with 128 masks: 5 s an image on a core."""
    corruptions: tuple[str, ...] = FOUR
    """At severity 5; clean images besides."""
    oracle_corruptions: int = 1
    """An oracle is trained anew for each: only for so many, and not for clean images."""
    recipes: tuple[str, ...] = tuple(RECIPES)
    """Which bundles to make."""
    seeds: tuple[int, ...] = (0,)
    """Of order, corruption and views at deployment; training has seed 0. Methods that learn from
    each image alone take the first, as does the oracle, which was trained on that one's pixels."""
    controls: bool = False
    """Also measure batch methods at learning rate 0: what moving statistics do without steps."""
    train_only: bool = False
    """Stop when the bundles are made."""
    plan: bool = False
    """Only say what would be measured and how long it takes."""


def main(arguments: Arguments) -> None:
    """Train, measure, write."""
    train_all(arguments, list(jobs(arguments)))
    if arguments.train_only:
        return
    out = arguments.out / "grid"
    run_all(benches(arguments), out, workers=arguments.workers, only_plan=arguments.plan)
    if arguments.results and not arguments.plan:
        publish(out, arguments.results)
        record = {
            "data": Path(arguments.data).name,
            "arguments": told(arguments),
            "stages": asdict(settings(arguments.epochs)),
            "machine": machine.describe(),
        }
        write_text(arguments.results / "settings.json", json.dumps(record, indent=2) + "\n")


def publish(grid: Path, results: Path) -> None:
    """Copy what was measured, and from what."""
    results.mkdir(parents=True, exist_ok=True)
    for name in (RESULTS, MANIFEST):
        shutil.copyfile(grid / name, results / name)


def run_all(
    found: Iterable[Bench], out: Path, *, workers: int, only_plan: bool = False
) -> list[Cell]:
    """Run one bench after the other into a folder, or only say how long each takes.

    Returns:
        All their cells.

    Raises:
        InputError: cells have failed; all others were measured.
    """
    engine = processes(workers)
    done: list[Cell] = []
    failed = []
    for bench in found:
        with live() as progress:
            if only_plan:
                show_plan(plan(bench, out, engine=engine, progress=progress), workers)
                continue
            cells, errors = run_bench(bench, out, engine=engine, progress=progress)
        show_results(cells, errors)
        done += cells
        failed += errors
    if failed:
        raise InputError(
            f"{len(failed)} cells failed, {failed[0][0]} with {failed[0][1]}; mend the cause and "
            f"run the same command again."
        )
    return done


def benches(arguments: Arguments) -> Iterator[Bench]:
    """Batch methods on all bundles; then those of single images and the oracle, on less."""
    whole = Grid(("none", *arguments.corruptions), seeds=arguments.seeds)
    first = replace(whole, seeds=arguments.seeds[:1])
    bundles = {name: arguments.out / "bundles" / name for name in arguments.recipes}
    plain = {name: path for name, path in bundles.items() if name != ORACLE}
    convolutional = {n: path for n, path in plain.items() if not RECIPES[n].transformer}
    batch = tuple(
        name for name, row in METHODS.items() if row.recipe in convolutional and name not in SINGLE
    )
    if arguments.controls:
        batch += tuple(name + LR0 for name in batch if METHODS[name].settings.steps)
    if convolutional:
        grid = replace(whole, methods=batch)
        yield Bench(grid, convolutional, partial(test_images, arguments.data, arguments.images))
    for name in SINGLE:
        recipe = METHODS[name].recipe
        if recipe in plain:
            transformer = RECIPES[recipe].transformer
            count = arguments.transformer_images if transformer else arguments.single_images
            frozen = ("source",) if transformer else ("source", "ptbn")
            alike = (other for other, row in METHODS.items() if row.recipe == recipe)
            grid = replace(first, methods=(*frozen, *alike))
            yield Bench(grid, {recipe: plain[recipe]}, partial(test_images, arguments.data, count))
    if ORACLE in bundles:
        for name in arguments.corruptions[: arguments.oracle_corruptions]:
            path = arguments.out / "bundles" / f"{ORACLE}-{name}"
            grid = replace(first, corruptions=(name,), methods=("source", "ptbn", "uda-ss"))
            load = partial(test_images, arguments.data, arguments.images)
            yield Bench(grid, {path.name: path}, load)


def jobs(arguments: Arguments) -> Iterator[Job]:
    """The bundles of the recipes; an oracle's for each of its corruptions."""
    for recipe in arguments.recipes:
        if recipe not in RECIPES:
            raise unknown_name("recipe", recipe, RECIPES)
        model = arguments.transformer if RECIPES[recipe].transformer else arguments.model
        if recipe != ORACLE:
            yield Job(recipe, model)
            continue
        for corruption in arguments.corruptions[: arguments.oracle_corruptions]:
            yield Job(recipe, model, (corruption, arguments.images, arguments.seeds[0]))


if __name__ == "__main__":
    start(main, Arguments)
