"""All tables and figures of both papers, and our own, on one data set, from one command.

    python studies/everything.py --data cifar10.zip --out runs/main --results results/main
    acclimate report runs/main/grid --published published.csv

The protocol of the main table: 2,000 test images, clean and under each of the 15 corruptions at
severity 5, and three seeds at deployment. Methods that adapt to each image alone get fewer images.
Each part is a separate study; all share bundles and grid. An interrupted run can be resumed, except
that the parts analyses and ablations start again. With fewer recipes the table has fewer methods,
and only the parts table and claims are available. ``--plan`` prints the estimated time.
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

Part = Literal["table", "temperatures", "analyses", "streams", "ablations", "claims"]


@dataclass(frozen=True)
class Arguments(Budget):
    """Data, and folders for results."""

    results: Path | None = None
    """Folder to which tables, analyses, settings and machine are copied."""
    parts: tuple[Part, ...] = get_args(Part)
    """Parts to run, in order."""
    recipes: tuple[str, ...] = tuple(RECIPES)
    """Recipes whose bundles are trained for the table."""
    images: int = 2000
    """Number of test images per corruption, evenly spaced."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of order, corruptions and views at deployment."""
    transformer: str = "acclimate:vit4-w128-p8"
    """Classifier of ttt-mae. Its forward pass costs as much as that of the other methods."""
    transformer_images: int = methods.Arguments.single_images
    """Number of test images for ttt-mae, which takes 20 steps with 128 masks on each image."""
    plan: bool = False
    """Train, then only print what the table would measure, and the estimated time."""


def main(arguments: Arguments) -> None:
    """Run the parts in order."""
    if arguments.recipes != Arguments.recipes and {*arguments.parts} - {"table", "claims"}:
        raise InputError("a subset of recipes allows only --parts table claims; add this option.")
    for name in ("table",) if arguments.plan else arguments.parts:
        Console().rule(name)
        RUN[name](arguments)


def budget(arguments: Arguments) -> dict[str, Any]:
    """Arguments that all studies with training share."""
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
    """CTA's table 1: the temperature of the alignment."""
    temperature.main(temperature.Arguments(**budget(arguments), images=arguments.images))


def run_analyses(arguments: Arguments) -> None:
    """CTA's table 6 and figure 2, TTT's figure 4: features and gradients."""
    bundles = {name: arguments.out / "bundles" / name for name in ("cta", "y", "ttt")}
    twin, joint, ttt = bundles.values()
    grid, data = arguments.out / "grid", arguments.data
    for analysis in (
        Analyse("semantics", (twin, joint), data, grid),
        Analyse("tsne", (twin, joint), data, grid),
        Analyse("gradients", (ttt,), data, grid, images=100, workers=arguments.workers),
    ):
        analysis.run(Console())


def run_streams(arguments: Arguments) -> None:
    """TTT's figure 3: accuracy for each batch size and order of arrival."""
    results = arguments.results / "streams" if arguments.results else None
    streams.main(
        streams.Arguments(arguments.data, arguments.out, arguments.workers, results=results)
    )


def run_ablations(arguments: Arguments) -> None:
    """Changed settings, drift of the class medians, and agreement of the two tasks' gradients."""
    for study in (changed, drift, agreement):
        study.main(
            study.Arguments(
                arguments.data, arguments.out, arguments.workers, results=arguments.results
            )
        )


def run_claims(arguments: Arguments) -> None:
    """The papers' claims, TTT's figure 2; copies all results."""
    grid, results = arguments.out / "grid", arguments.results
    claims.main(claims.Arguments(grid, results))
    if results:
        methods.publish(grid, results)  # again, because the analyses add to it
        along.main(along.Arguments(grid, results))
        if (analyses := grid / "analyses").exists():
            shutil.copytree(analyses, results / "analyses", dirs_exist_ok=True)


RUN: dict[Part, Callable[[Arguments], None]] = {
    "table": table,
    "temperatures": temperatures,
    "analyses": run_analyses,
    "streams": run_streams,
    "ablations": run_ablations,
    "claims": run_claims,
}

if __name__ == "__main__":
    start(main, Arguments)
