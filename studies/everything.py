"""Every table and figure of both papers, and ours, on one data set, from one command.

    python studies/everything.py --data cifar10.zip --out runs/main --results results/main
    acclimate report runs/main/grid --published published.csv

The protocol of the main table: 2,000 test images under each of the 15 corruptions at severity 5 and
clean, three seeds at deployment; methods that learn from each image alone on fewer. Each part is a
study of its own, which this gives the same bundles and the same grid. Killed, it resumes, but
looks and reasons begin anew. Fewer recipes make a table of fewer methods, for which only the parts
table and verdicts can be asked; ``--plan`` says how long the table takes.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import agreement
import along
import changed
import claims
import drift
import methods
import streams
import temperature
from bundles import Budget
from rich.console import Console

from acclimate.commands.analyse import Analyse
from acclimate.commands.script import start
from acclimate.data.corruptions import PUBLISHED
from acclimate.errors import InputError
from acclimate.methods import RECIPES

Part = Literal["table", "temperatures", "looks", "arrivals", "reasons", "verdicts"]


@dataclass(frozen=True)
class Arguments(Budget):
    """What to run on, and where to write."""

    results: Path | None = None
    """Where tables, analyses, settings and machine are copied."""
    parts: tuple[Part, ...] = get_args(Part)
    """Parts to run, in this order."""
    recipes: tuple[str, ...] = tuple(RECIPES)
    """Bundles to make, for the table."""
    images: int = 2000
    """Test images under each corruption, evenly spaced."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of order, corruption and views at deployment."""
    transformer: str = "acclimate:vit4-w128-p8"
    """The classifier of ttt-mae: its forward pass costs what the other methods' does."""
    transformer_images: int = methods.Arguments.single_images
    """Test images of ttt-mae, which learns from each image alone, 20 times with 128 masks."""
    plan: bool = False
    """Train, and only say what the table would measure and how long it takes."""


def main(arguments: Arguments) -> None:
    """Part by part."""
    if arguments.recipes != Arguments.recipes and {*arguments.parts} - {"table", "verdicts"}:
        raise InputError("some recipes are enough for a table alone; add --parts table verdicts.")
    for name in ("table",) if arguments.plan else arguments.parts:
        Console().rule(name)
        RUN[name](arguments)


def budget(arguments: Arguments) -> dict[str, Any]:
    """The arguments of all studies that train."""
    return {field.name: getattr(arguments, field.name) for field in fields(Budget)}


def table(arguments: Arguments) -> None:
    """All methods under all corruptions: CTA's tables 2 to 4, TTT's table 1, figure 3."""
    methods.main(
        methods.Arguments(
            **budget(arguments),
            results=arguments.results,
            images=arguments.images,
            transformer=arguments.transformer,
            transformer_images=arguments.transformer_images,
            corruptions=PUBLISHED,
            oracle_corruptions=3,
            recipes=arguments.recipes,
            seeds=arguments.seeds,
            plan=arguments.plan,
        )
    )


def temperatures(arguments: Arguments) -> None:
    """CTA's table 1."""
    temperature.main(temperature.Arguments(**budget(arguments), images=arguments.images))


def looks(arguments: Arguments) -> None:
    """CTA's table 6 and figure 2, TTT's figure 4."""
    bundles = {name: arguments.out / "bundles" / name for name in ("cta", "y", "ttt")}
    twin, joint, ttt = bundles.values()
    grid, data = arguments.out / "grid", arguments.data
    for analysis in (
        Analyse("semantics", (twin, joint), data, grid),
        Analyse("tsne", (twin, joint), data, grid),
        Analyse("gradients", (ttt,), data, grid, images=100, workers=arguments.workers),
    ):
        analysis.run(Console())


def arrivals(arguments: Arguments) -> None:
    """TTT's figure 3, batch size and order against accuracy."""
    results = arguments.results / "streams" if arguments.results else None
    streams.main(
        streams.Arguments(arguments.data, arguments.out, arguments.workers, results=results)
    )


def reasons(arguments: Arguments) -> None:
    """Three times the steps, batch statistics, what drifts, whether two tasks pull the same way."""
    for look in (changed, drift, agreement):
        look.main(
            look.Arguments(
                arguments.data, arguments.out, arguments.workers, results=arguments.results
            )
        )


def verdicts(arguments: Arguments) -> None:
    """The papers' claims as differences with intervals, TTT's figure 2; and all results, copied."""
    grid, results = arguments.out / "grid", arguments.results
    claims.main(claims.Arguments(grid, results))
    if results:
        methods.publish(grid, results)  # again, for looks have added to it
        along.main(along.Arguments(grid, results))
        if (found := grid / "analyses").exists():
            shutil.copytree(found, results / "analyses", dirs_exist_ok=True)


RUN: dict[Part, Callable[[Arguments], None]] = {
    "table": table,
    "temperatures": temperatures,
    "looks": looks,
    "arrivals": arrivals,
    "reasons": reasons,
    "verdicts": verdicts,
}

if __name__ == "__main__":
    start(main, Arguments)
