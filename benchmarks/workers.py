"""Cells an hour that a grid measures with two single-threaded workers, over those with one.

Each round runs the whole of `run_grid` in an empty folder, one number of workers after the other:
processes are started, speeds and cells are measured, the store is written. With the same
weights and seeds the accuracies must be the same too.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from common import alternate, describe, ratio

from acclimate.commands.script import finish, start, told
from acclimate.data import LabelledImages, load, subset
from acclimate.data.corruptions import PUBLISHED
from acclimate.evaluate.cell import Cell
from acclimate.evaluate.grid_run import GridRun, run_grid
from acclimate.evaluate.task import Grid
from acclimate.runtime.memory import keep_freed_memory
from acclimate.runtime.workers import processes
from acclimate.source.train import untrained

TARGET = 1.6


@dataclass
class Options:
    """Run one grid with one worker and with several, in turns."""

    model: str = "acclimate:resnet14-w32"
    methods: tuple[str, ...] = ("source", "ptbn", "tent", "tipi", "aligned-bn", "cta")
    images: int = 256
    """Test images under each of the 15 corruptions."""
    workers: int = 2
    """Compared with one."""
    pairs: int = 3
    """Rounds of A B."""
    seed: int = 0
    out: Path | None = None
    """A JSON file."""


def main(options: Options) -> None:
    """Time, compare the answers, show the ratio."""
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        torch.manual_seed(options.seed)
        untrained("cta", options.model, 32).save(bundle)
        grid = Grid(PUBLISHED, methods=options.methods, seeds=(options.seed,))
        grid_run = GridRun(grid, {"bundle": bundle}, (partial(images, options.images),))
        found: dict[int, list[Cell]] = {}

        def run(workers: int) -> Callable[[int], None]:
            def whole(number: int) -> None:
                out = Path(folder) / f"{workers}-{number}"
                measured, errors = run_grid(grid_run, out, engine=processes(workers))
                found[workers] = [each.cell for each in measured]
                if errors:
                    raise SystemExit(f"{errors[0][0]}: {errors[0][1]}")

            return whole

        counts = (1, options.workers)
        seconds = alternate({str(count): run(count) for count in counts}, options.pairs)
    one, several = ([cell.accuracy for cell in found[count]] for count in counts)
    if one != several:
        raise SystemExit("the accuracies depend on the number of workers")
    gain = ratio(seconds, "1", str(options.workers))
    hourly = {n: [3600 * len(one) / s for s in times] for n, times in seconds.items()}
    print(f"{options.workers} workers over 1: {describe(gain)}, target {TARGET}")
    print({n: [round(rate) for rate in rates] for n, rates in hourly.items()}, "cells an hour")
    result = {"seconds": seconds, "cells": len(one), "ratio": gain, "target": TARGET}
    finish({"options": told(options), **result}, options.seed, options.out)


def images(count: int) -> LabelledImages:
    """Test images, evenly spaced."""
    return subset(load("fashion-mnist-mini", "test"), count)


if __name__ == "__main__":
    start(main, Options)
