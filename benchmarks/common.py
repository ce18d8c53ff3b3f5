"""What every benchmark shares: alternated timing, the machine's description, the result file."""

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
    """Seconds of each run, taken in turns (A B A B ...) so that a change of load hits all alike.

    Args:
        runs: Called with the number of the round; one round before the first is not timed.
        pairs: Rounds.
        clock: ``time.process_time`` for work on one core does not count waiting for that core.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(-1, pairs):
        for name, run in runs.items():
            started = clock()
            run(number)
            if number >= 0:
                seconds[name].append(clock() - started)
    return seconds


def ratio(seconds: dict[str, list[float]], above: str, below: str) -> dict[str, float]:
    """Median, least and greatest of the ratios round by round."""
    ratios = [a / b for a, b in zip(seconds[above], seconds[below])]
    return {"median": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios)}


def describe(values: dict[str, float]) -> str:
    """A ratio as text."""
    return f"{values['median']:.2f} ({values['least']:.2f} to {values['greatest']:.2f})"


def random_bundle(model: str, recipe: str, size: int, seed: int) -> Bundle:
    """A recipe's bundle with the published options and random weights: speed depends on neither."""
    torch.manual_seed(seed)
    row = RECIPES[recipe]
    # As many images as TTT++ needs to tell how much the moments of a queue of them vary.
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
