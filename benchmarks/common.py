"""What every benchmark shares: alternated timing, the machine's description, the result file."""

import csv
import io
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, fields, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from acclimate import machine
from acclimate.backbones import build, projected, split
from acclimate.bundle import Bundle
from acclimate.cli import one_sentence
from acclimate.files import write_text
from acclimate.methods import RECIPES
from acclimate.preprocessing import Preprocessing
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run
from acclimate.source.presets import PRESETS
from acclimate.source.train import begin, make

CLASSES = 10


def start(main: Callable[[Any], None], options: type) -> None:
    """Read options, call; bad input ends in a sentence."""
    with one_sentence("run the same command again"):
        main(tyro.cli(options))


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


def finish(result: dict[str, Any], seed: int, out: Path | None) -> None:
    """Print where this ran, and write the result if a file is named."""
    where = machine.describe() | {"seed": str(seed)}
    print(", ".join(f"{name} {value}" for name, value in where.items()))
    if out:
        write_text(out, json.dumps({**result, "environment": where}, indent=2) + "\n")


def told(options: Any) -> dict[str, Any]:
    """Options as they are written: without where this machine keeps things."""
    return {
        name: value
        for name, value in asdict(options).items()
        if name not in ("data", "out", "results")
    }


def show_rows(rows: Sequence[Any]) -> None:
    """Print dataclasses of one kind as a table."""
    table = Table(*(field.name for field in fields(rows[0])))
    for row in rows:
        table.add_row(*map(str, astuple(row)))
    Console().print(table)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows that are alike in their keys as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


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
