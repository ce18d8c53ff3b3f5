"""Throughput of a grid with two single-threaded workers against one, in cells per hour.

Each round runs `run_grid` in an empty folder with each number of workers. The timing includes
starting processes, measuring speeds, measuring cells, and writing results. The accuracies must not
depend on the number of workers. With `--engine ray` workers are those of a Ray cluster on this
machine, which is started before and keeps its processes from one grid to the next.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from common import alternate, describe, ratio

from acclimate.commands.script import finish, recorded_options, start
from acclimate.data import LabelledImages, load, subset
from acclimate.data.corruptions import PUBLISHED
from acclimate.evaluate.cell import Cell
from acclimate.evaluate.grid_run import GridRun, run_grid
from acclimate.evaluate.ray_cluster import RayCluster
from acclimate.evaluate.task import Grid
from acclimate.runtime.memory import keep_freed_memory
from acclimate.runtime.workers import Engine, processes
from acclimate.source.train import untrained

TARGETS = {"processes": 1.6, "ray": 1.7}


@dataclass
class Options:
    """Run the same grid with one worker and with several, alternately."""

    model: str = "acclimate:resnet14-w32"
    """Architecture, as for `acclimate.build`."""
    methods: tuple[str, ...] = ("source", "ptbn", "tent", "tipi", "aligned-bn", "cta")
    """Methods of the grid."""
    images: int = 256
    """Number of test images for each of the 15 corruptions."""
    workers: int = 2
    """Number of workers to compare with one."""
    pairs: int = 3
    """Number of rounds, each of which times both once."""
    engine: Literal["processes", "ray"] = "processes"
    """Where the workers run."""
    seed: int = 0
    """Random seed of weights, order, corruption and views."""
    out: Path | None = None
    """JSON file for the result."""


def main(options: Options) -> None:
    """Time both, compare the accuracies, print the ratio."""
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder, engines(options) as engine:
        bundle = Path(folder) / "bundle"
        torch.manual_seed(options.seed)
        untrained("cta", options.model, 32).save(bundle)
        grid = Grid(PUBLISHED, methods=options.methods, seeds=(options.seed,))
        grid_run = GridRun(grid, {"bundle": bundle}, (partial(images, options.images),))
        cells: dict[int, list[Cell]] = {}

        def run(workers: int) -> Callable[[int], None]:
            def whole(round_index: int) -> None:
                out = Path(folder) / f"{workers}-{round_index}"
                measured, errors = run_grid(grid_run, out, engine=engine(workers))
                cells[workers] = [each.cell for each in measured]
                if errors:
                    raise SystemExit(f"{errors[0][0]}: {errors[0][1]}")

            return whole

        counts = (1, options.workers)
        seconds = alternate({str(count): run(count) for count in counts}, options.pairs)
    one, several = ([cell.accuracy for cell in cells[count]] for count in counts)
    if one != several:
        raise SystemExit("the accuracies depend on the number of workers")
    gain = ratio(seconds, "1", str(options.workers))
    target = TARGETS[options.engine]
    hourly = {n: [3600 * len(one) / s for s in times] for n, times in seconds.items()}
    print(f"{options.workers} workers over 1: {describe(gain)}, target {target}")
    print({n: [round(rate) for rate in rates] for n, rates in hourly.items()}, "cells per hour")
    result = {"seconds": seconds, "cells": len(one), "ratio": gain, "target": target}
    finish({"options": recorded_options(options), **result}, options.seed, options.out)


@contextmanager
def engines(options: Options) -> Iterator[Callable[[int], Engine]]:
    """The engine of each number of workers."""
    if options.engine == "processes":
        yield processes
        return
    with RayCluster("local", options.workers) as several:
        one = RayCluster(workers=1).__enter__()  # of the same cluster
        yield {1: one, options.workers: several}.__getitem__


def images(count: int) -> LabelledImages:
    """Evenly spaced test images."""
    return subset(load("fashion-mnist-mini", "test"), count)


if __name__ == "__main__":
    start(main, Options)
