"""The temperature of CTA's alignment: accuracy of the frozen twin, clean and corrupted (Table 1).

    python studies/methods.py --data cifar10.zip --out runs/methods --recipes cta --train-only
    python studies/temperature.py --data cifar10.zip --out runs/methods

At each temperature the contrastive twin of the first command is aligned with its classifier.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean

from bundles import Budget, in_processes, settings, test_images, train_images, was_made
from methods import run_all
from rich.console import Console

from acclimate.commands.script import start
from acclimate.data.corruptions import PUBLISHED
from acclimate.evaluate.analyses.record import write_record
from acclimate.evaluate.cell import CLEAN
from acclimate.evaluate.grid_run import GridRun
from acclimate.evaluate.store import Measured
from acclimate.evaluate.task import Grid
from acclimate.evaluate.variant import Variant
from acclimate.runtime.progress import live
from acclimate.source.loop import Run
from acclimate.source.train import train
from acclimate.storage.atomic import write_atomically

LABEL = "cta-tau-"
STAGES = ("supervised", "contrastive")
"""Stages that all alignments share."""


@dataclass(frozen=True)
class Arguments(Budget):
    """Data, and folders for results."""

    temperatures: tuple[float, ...] = (0.01, 0.1, 0.5)
    """Temperatures τ of Eq. 4."""
    images: int = 2000
    """Number of test images per corruption, evenly spaced."""


def main(arguments: Arguments) -> None:
    """Align the twins, measure them and write the table."""
    taus = arguments.temperatures
    paths = in_processes(partial(aligned, arguments), taus, arguments.workers, "alignments")
    bundles = {path.name: path for path in paths}
    load_test = partial(test_images, arguments.data, arguments.images)
    grid = Grid((CLEAN, *PUBLISHED), methods=("source", "aligned", "aligned-bn"))
    grid_run = GridRun(grid, bundles, (load_test,))
    measured = run_all([grid_run], arguments.out / "temperatures", workers=arguments.workers)
    rows = [(next(iter(bundles)), "source"), *product(bundles, grid.methods[1:])]
    path = write_record(
        arguments.out / "grid",
        "temperature",
        title="The temperature of the alignment",
        caption="Accuracy on clean images and its mean over the 15 corruptions at severity 5, of "
        "twins aligned at different temperatures: frozen, and with batch statistics.",
        rows=[row_of(measured, *each) for each in rows],
        settings={"images": arguments.images, "epochs": arguments.epochs, "model": arguments.model},
    )
    Console().print(f"{path} is ready", highlight=False)


def row_of(measured: Sequence[Measured], bundle: str, method: str) -> dict[str, str | float]:
    """Clean accuracy of a method, and its mean accuracy over corruptions."""
    mine = {
        m.cell.corruption: m.cell.accuracy for m in measured if m.row == (bundle, Variant(method))
    }
    clean = mine.pop(CLEAN)
    temperature = "" if method == "source" else bundle.removeprefix(LABEL)
    return {
        "method": method,
        "temperature": temperature,
        "clean": clean,
        "corrupted": mean(mine.values()),
    }


def aligned(arguments: Arguments, temperature: float) -> Path:
    """Train the bundle of a twin that is aligned at a temperature, if it does not exist."""
    label = f"{LABEL}{temperature:g}"
    path = arguments.out / "bundles" / label
    chosen = replace(settings(arguments.epochs), align_temperature=temperature)
    source = train_images(arguments)
    if was_made(path, arguments.model, chosen, source.images):
        return path
    stages = arguments.out / "stages" / label
    for stage in STAGES:
        trained = arguments.out / "stages" / "cta" / f"{stage}.safetensors"
        if not (copied := stages / trained.name).exists():
            write_atomically(copied, partial(shutil.copyfile, trained))
    with live() as progress:
        run = Run(0, stages, progress=progress)
        train("cta", arguments.model, source, chosen, run).save(path)
    return path


if __name__ == "__main__":
    start(main, Arguments)
