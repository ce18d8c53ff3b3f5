"""All methods on one data set with the same training budget, without tuning on the results.

    python studies/methods.py --data cifar10.zip --out runs/methods --results results/methods

DATA is a folder or zip of ``train/class/image`` and ``test/class/image``. A bundle is trained for
each recipe, all stages for the same number of epochs. Then each method adapts to the same images
(`acclimate.evaluate.grid_run`). The baselines of each method are its own bundle without adaptation
and with batch statistics alone, because these explain most of the gain of most methods. An
interrupted run can be resumed. Once the bundles exist, ``--plan`` prints the estimated time.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from bundles import FOUR, Budget, Job, settings, test_images, train_all

from acclimate.commands.bench import show_plan, show_results
from acclimate.commands.script import recorded_options, start
from acclimate.errors import InputError, unknown_name
from acclimate.evaluate.grid_run import MANIFEST, RESULTS, GridRun, plan, run_grid
from acclimate.evaluate.store import Measured
from acclimate.evaluate.task import Grid
from acclimate.evaluate.variant import Variant
from acclimate.methods import METHODS, RECIPES
from acclimate.runtime import machine
from acclimate.runtime.progress import live
from acclimate.runtime.workers import processes
from acclimate.storage.atomic import write_text

ORACLE = next(row.recipe for row in METHODS.values() if row.oracle)
SINGLE = [name for name, row in METHODS.items() if row.settings.alone]
"""Methods that take many steps on each image alone; they are measured on fewer images."""


@dataclass(frozen=True)
class Arguments(Budget):
    """Data, and folders for results."""

    results: Path | None = None
    """Folder to which results.csv, the manifest and the settings are copied."""
    transformer: str = "acclimate:vit6-w192-p4"
    """Classifier of ttt-mae."""
    images: int = 500
    """Number of test images per corruption, evenly spaced."""
    single_images: int = 200
    """Number of test images for ttt, which adapts to each image alone."""
    transformer_images: int = 60
    """Number of test images for ttt-mae: 20 steps with 128 masks take 5 s per image on one core."""
    corruptions: tuple[str, ...] = FOUR
    """Corruptions at severity 5, in addition to clean images."""
    oracle_corruptions: int = 1
    """Number of corruptions for the oracle, which is trained for each of them."""
    recipes: tuple[str, ...] = tuple(RECIPES)
    """Recipes whose bundles are trained."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of order, corruptions and views at deployment; training has seed 0. Methods that adapt
    to each image alone use only the first seed. So does the oracle, which is trained on the target
    images of that seed."""
    controls: bool = False
    """Also measure batch methods at learning rate 0, to isolate the effect of batch statistics."""
    train_only: bool = False
    """Stop after training the bundles."""
    plan: bool = False
    """Only print what would be measured, and the estimated time."""


def main(arguments: Arguments) -> None:
    """Train the bundles, run the grids, copy the results."""
    train_all(arguments, list(jobs(arguments)))
    if arguments.train_only:
        return
    out = arguments.out / "grid"
    run_all(grids(arguments), out, workers=arguments.workers, only_plan=arguments.plan)
    if arguments.results and not arguments.plan:
        publish(out, arguments.results)
        record = {
            "data": Path(arguments.data).name,
            "arguments": recorded_options(arguments),
            "stages": asdict(settings(arguments.epochs)),
            "machine": machine.describe(),
        }
        write_text(arguments.results / "settings.json", json.dumps(record, indent=2) + "\n")


def publish(grid: Path, results: Path) -> None:
    """Copy a grid's results and manifest."""
    results.mkdir(parents=True, exist_ok=True)
    for name in (RESULTS, MANIFEST):
        shutil.copyfile(grid / name, results / name)


def run_all(
    grid_runs: Iterable[GridRun], out: Path, *, workers: int, only_plan: bool = False
) -> list[Measured]:
    """Run grids one after the other into a folder, or only print the estimated time of each.

    Returns:
        The cells of all grids.

    Raises:
        InputError: some cells failed; all others were measured.
    """
    engine = processes(workers)
    all_measured: list[Measured] = []
    failed = []
    for grid_run in grid_runs:
        with live() as progress:
            if only_plan:
                show_plan(plan(grid_run, out, engine=engine, progress=progress), workers)
                continue
            measured, errors = run_grid(grid_run, out, engine=engine, progress=progress)
        show_results(measured, errors)
        all_measured += measured
        failed += errors
    if failed:
        raise InputError(
            f"{len(failed)} cells failed, {failed[0][0]} with {failed[0][1]}; fix the cause and "
            f"run the same command again."
        )
    return all_measured


def grids(arguments: Arguments) -> Iterator[GridRun]:
    """Grids of batch methods on all bundles, of single-image methods, and of the oracle."""
    whole = Grid(("none", *arguments.corruptions), seeds=arguments.seeds)
    first = replace(whole, seeds=arguments.seeds[:1])
    bundles = {name: arguments.out / "bundles" / name for name in arguments.recipes}
    plain = {name: path for name, path in bundles.items() if name != ORACLE}
    convolutional = {n: path for n, path in plain.items() if not RECIPES[n].transformer}
    batch = tuple(
        name
        for name, row in METHODS.items()
        if row.recipe in convolutional
        and name not in SINGLE
        and not (row.transformer or row.zero_shot)
    )
    if arguments.controls:
        batch += tuple(
            str(Variant(name).without_steps) for name in batch if METHODS[name].settings.steps
        )
    if convolutional:
        grid = replace(whole, methods=batch)
        load = partial(test_images, arguments.data, arguments.images)
        yield GridRun(grid, convolutional, (load,))
    for name in SINGLE:
        recipe = METHODS[name].recipe
        if recipe in plain:
            transformer = RECIPES[recipe].transformer
            count = arguments.transformer_images if transformer else arguments.single_images
            frozen = ("source",) if transformer else ("source", "ptbn")
            methods = (
                other
                for other, row in METHODS.items()
                if row.recipe == recipe and (row.settings.one_by_one or recipe != "supervised")
            )
            grid = replace(first, methods=(*frozen, *methods))
            load = partial(test_images, arguments.data, count)
            yield GridRun(grid, {recipe: plain[recipe]}, (load,))
    if ORACLE in bundles:
        for name in arguments.corruptions[: arguments.oracle_corruptions]:
            path = arguments.out / "bundles" / f"{ORACLE}-{name}"
            grid = replace(first, corruptions=(name,), methods=("source", "ptbn", "uda-ss"))
            load = partial(test_images, arguments.data, arguments.images)
            yield GridRun(grid, {path.name: path}, (load,))


def jobs(arguments: Arguments) -> Iterator[Job]:
    """Bundles to train: one per recipe, and for the oracle one per corruption."""
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
