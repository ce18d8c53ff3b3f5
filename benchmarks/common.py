"""Helpers of all benchmarks: alternating timing, ratios, and bundles with random weights."""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from acclimate.backbones import build, projected, split
from acclimate.bundle import Bundle
from acclimate.methods import RECIPES
from acclimate.preprocessing import Preprocessing
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run
from acclimate.source.presets import PRESETS
from acclimate.source.train import begin, make

CLASSES = 10


def alternate(
    runs: dict[str, Callable[[int], Any]],
    pairs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each run, timed alternately (A B A B ...), so that load affects all equally.

    Args:
        runs: Functions that are called with the index of the round, from 0. An additional round
            before the first, with index -1, is not timed.
        pairs: Number of rounds.
        clock: Function that returns seconds. For work on one core, ``time.process_time`` excludes
            the time spent waiting for that core.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(-1, pairs):
        for name, run in runs.items():
            started = clock()
            run(number)
            if number >= 0:
                seconds[name].append(clock() - started)
    return seconds


def clock_of(threads: int, device: str = "cpu") -> Callable[[], float]:
    """Processor time where one thread does all the work, whatever else the machine does."""
    return time.process_time if threads == 1 and device == "cpu" else time.perf_counter


def ratio(seconds: dict[str, list[float]], above: str, below: str) -> dict[str, float]:
    """Median, minimum and maximum of the ratio of each round."""
    ratios = [a / b for a, b in zip(seconds[above], seconds[below])]
    return {"median": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios)}


def describe(values: dict[str, float]) -> str:
    """A ratio as text: median (minimum to maximum)."""
    return f"{values['median']:.2f} ({values['least']:.2f} to {values['greatest']:.2f})"


def random_bundle(model: str, recipe: str, size: int, seed: int) -> Bundle:
    """A bundle with the recipe's published options and random weights, for timing."""
    torch.manual_seed(seed)
    row = RECIPES[recipe]
    # Enough images for TTT++, which measures how much the moments of a queue of images vary.
    images = torch.randint(0, 256, (3 * 1024, 3, size, size), dtype=torch.uint8)
    source = SourceImages(images, Preprocessing(size))
    classifier = split(build(model, classes=CLASSES)).eval()
    work = begin(row, classifier, source, PRESETS["paper"], Run(seed=seed))
    if "align" in row.stages:
        work.twin = projected(work.classifier)
    names = tuple(map(str, range(CLASSES)))
    bundle = make(work, replace(row, stages=()), names, origin="random")
    bundle.recipe = recipe
    return bundle
