"""How far to trust a batch: each limit, and what was measured without labels, by the accuracy.

    python studies/trust.py --data cifar10.zip --bundles runs/ours/resnet20 --out runs/trust \
        --results results/trust

Test images, clean and under the four corruptions that no table reports, in large batches. A
bundle's own limit and prior were chosen on source images without labels
(`acclimate.source.trust`); beside them stands every limit, with no prior. Which of these is best is
known only here, with labels. A run with other bundles adds to the results.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from methods import run_all
from ours import test
from rich.console import Console
from rich.table import Table
from score import scores

from acclimate.backbones.code import trusted_code
from acclimate.bundle_record import read_record
from acclimate.commands.script import finish, recorded_options, start, write_table
from acclimate.evaluate.cell import CLEAN
from acclimate.evaluate.grid_run import GridRun
from acclimate.evaluate.store import Measured
from acclimate.evaluate.task import Grid
from acclimate.evaluate.variant import Variant
from acclimate.methods import METHODS
from acclimate.report.measured import read_grid
from acclimate.runtime.memory import keep_freed_memory
from acclimate.source.held_out import SHIFTS
from acclimate.source.trust import LIMITS

ROWS = ("bn-adapt", "aligned-bn")
"""Rows that have a batch's statistics and nothing else: of the classifier, and of the twin."""
_LIMIT, _PRIOR = "normalisation.limit", "normalisation.prior"


@dataclass(frozen=True)
class Arguments:
    """Data, bundles, and what is measured."""

    data: str
    """CIFAR-10 as train/CLASS/IMAGE and test/CLASS/IMAGE: a folder or a zip."""
    bundles: tuple[Path, ...]
    """Bundles to measure, by the names of their folders."""
    out: Path
    """Folder for the measurements."""
    results: Path | None = None
    """Folder for the results that are kept."""
    images: int = 2000
    """Test images, clean and under each corruption."""
    batch: int = 200
    """Images that arrive together."""
    severity: int = 5
    """Severity of the corruptions."""
    workers: int = 1
    """Processes, each with one thread."""


def main(arguments: Arguments) -> None:
    """Measure, and write what is kept of all runs into the folder."""
    keep_freed_memory()
    with trusted_code():  # of this repository: the public networks' own
        run_all(grids(arguments), arguments.out, workers=arguments.workers)
    trust = {path.name: read_record(path)["trust"] for path in arguments.bundles}
    rows = list(summary(read_grid(arguments.out)[0], trust))
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)
    if arguments.results:
        arguments.results.mkdir(parents=True, exist_ok=True)
        write_table(arguments.results / "trust.csv", rows)
        write_table(arguments.results / "summary.csv", list(by_limit(rows)))
        settings = {"options": recorded_options(arguments)}
        finish(settings, 0, arguments.results / "settings.json")


def grids(arguments: Arguments) -> Iterator[GridRun]:
    """One grid for each bundle, with the rows of the models that it has."""
    load = partial(test, arguments.data, arguments.images)
    for path in arguments.bundles:
        models = read_record(path)["trust"]
        rows = [row for row in ROWS if METHODS[row].model in models]
        tried = [Variant.of(row, {_LIMIT: limit, _PRIOR: 0.0}) for row in rows for limit in LIMITS]
        grid = Grid(
            (CLEAN, *SHIFTS),
            severities=(arguments.severity,),
            methods=("source", *rows, *map(str, tried)),
            batch=arguments.batch,
            curve=False,
        )
        yield GridRun(grid, {path.name: path}, (load,))


def summary(
    measured: Sequence[Measured], trust: dict[str, dict[str, dict[str, float]]]
) -> Iterator[dict[str, object]]:
    """Accuracies in percent, clean and over the corruptions, and the gain with its interval."""
    for score in scores(measured):
        variant = Variant.parse(score.method)
        changes = dict(variant.changes)
        model = METHODS[variant.method].model
        known = trust.get(score.bundle, {}).get(model)
        own = variant.method in ROWS and not changes and known is not None
        gain, low, high = (
            "" if each == "" else round(100 * float(each), 1)
            for each in (score.gain, score.gain_low, score.gain_high)
        )
        yield {
            "bundle": score.bundle,
            "method": variant.method,
            "limit": known["limit"] if own else changes.get(_LIMIT, ""),
            "prior": known["prior"] if own else changes.get(_PRIOR, ""),
            "as_measured": "yes" if own else "",
            "clean": round(100 * float(score.clean), 1),
            "corrupted": round(100 * score.corrupted, 1),
            "gain": gain,
            "low": low,
            "high": high,
        }


def by_limit(rows: Sequence[Mapping[str, object]]) -> Iterator[dict[str, object]]:
    """A row for each model: clean / corrupted with each limit, and with what was measured."""
    frozen = {row["bundle"]: _both(row) for row in rows if row["method"] == "source"}
    for bundle, source in frozen.items():
        for method in ROWS:
            mine = [row for row in rows if (row["bundle"], row["method"]) == (bundle, method)]
            if not mine:
                continue
            found = {"model": f"{bundle}: {method}", "source": source}
            found |= {
                f"{float(str(row['limit'])):g}": _both(row)
                for row in mine
                if not row["as_measured"]
            }
            own = next(row for row in mine if row["as_measured"])
            yield found | {"as_measured": _both(own), "limit": own["limit"], "prior": own["prior"]}


def _both(row: Mapping[str, object]) -> str:
    return f"{row['clean']} / {row['corrupted']}"


if __name__ == "__main__":
    start(main, Arguments)
