"""Every method on one data set at one equal source budget, with nothing tuned on it.

    python studies/methods.py --data cifar10.zip --out runs/methods --results results/methods

DATA is a folder or zip of ``train/class/image`` and ``test/class/image``. A bundle is trained for
each recipe, all stages for the same number of epochs; then each method adapts to the same images
(`acclimate.evaluate.grid_run`). Beside each method stand its own bundle without adapting, and with
batch norm's statistics alone, for these explain most of what most methods gain. Killed, it resumes;
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
"""Methods that learn from each image alone in many steps; they are measured on fewer images."""


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
    """Test images for ttt, which learns from each image alone."""
    transformer_images: int = 60
    """Test images for ttt-mae, which takes 20 steps with 128 masks: 5 s an image on a core."""
    corruptions: tuple[str, ...] = FOUR
    """Corruptions at severity 5; clean images are measured too."""
    oracle_corruptions: int = 1
    """Number of corruptions for the oracle, which is trained anew for each."""
    recipes: tuple[str, ...] = tuple(RECIPES)
    """The bundles to make."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of order, corruption and views at deployment; training has seed 0. Methods that learn
    from each image alone take the first seed, as does the oracle, which was trained on its pixels.
    """
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
    """Copy what was measured, and from what."""
    results.mkdir(parents=True, exist_ok=True)
    for name in (RESULTS, MANIFEST):
        shutil.copyfile(grid / name, results / name)


def run_all(
    found: Iterable[GridRun], out: Path, *, workers: int, only_plan: bool = False
) -> list[Measured]:
    """Run one grid after the other into a folder, or only say how long each takes.

    Returns:
        The cells of all grids.

    Raises:
        InputError: cells have failed; all others were measured.
    """
    engine = processes(workers)
    done: list[Measured] = []
    failed = []
    for grid_run in found:
        with live() as progress:
            if only_plan:
                show_plan(plan(grid_run, out, engine=engine, progress=progress), workers)
                continue
            measured, errors = run_grid(grid_run, out, engine=engine, progress=progress)
        show_results(measured, errors)
        done += measured
        failed += errors
    if failed:
        raise InputError(
            f"{len(failed)} cells failed, {failed[0][0]} with {failed[0][1]}; mend the cause and "
            f"run the same command again."
        )
    return done


def grids(arguments: Arguments) -> Iterator[GridRun]:
    """Batch methods on all bundles; then methods of single images and the oracle, on fewer."""
    whole = Grid(("none", *arguments.corruptions), seeds=arguments.seeds)
    first = replace(whole, seeds=arguments.seeds[:1])
    bundles = {name: arguments.out / "bundles" / name for name in arguments.recipes}
    plain = {name: path for name, path in bundles.items() if name != ORACLE}
    convolutional = {n: path for n, path in plain.items() if not RECIPES[n].transformer}
    batch = tuple(
        name for name, row in METHODS.items() if row.recipe in convolutional and name not in SINGLE
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
            alike = (other for other, row in METHODS.items() if row.recipe == recipe)
            grid = replace(first, methods=(*frozen, *alike))
            load = partial(test_images, arguments.data, count)
            yield GridRun(grid, {recipe: plain[recipe]}, (load,))
    if ORACLE in bundles:
        for name in arguments.corruptions[: arguments.oracle_corruptions]:
            path = arguments.out / "bundles" / f"{ORACLE}-{name}"
            grid = replace(first, corruptions=(name,), methods=("source", "ptbn", "uda-ss"))
            load = partial(test_images, arguments.data, arguments.images)
            yield GridRun(grid, {path.name: path}, (load,))


def jobs(arguments: Arguments) -> Iterator[Job]:
    """The bundles of the recipes; an oracle has a bundle for each of its corruptions."""
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
