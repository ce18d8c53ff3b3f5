"""Choose CTA's settings at 12 forward passes per image, without target labels.

    python studies/settings.py --data cifar10.zip --out runs/methods --results results/methods

The twin is trained as in `methods.py`, but on 95 % of the training images. All settings are
measured on the rest, under four corruptions that no table reports. The study chooses the setting
with the best mean among those that lose at most one point of clean accuracy to the frozen
classifier. Each setting is a variant of a grid in ``runs/methods/settings``. Views are an option of
the bundle's objective, not a setting of the adapter, so variants with gentle views adapt a copy of
the bundle. An interrupted run can be resumed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bundles import Budget, settings, was_made
from methods import run_all
from rich.console import Console
from rich.table import Table

from acclimate.bundle import Bundle
from acclimate.commands.script import finish, recorded_options, start, write_table
from acclimate.data import LabelledImages, hold_out, load
from acclimate.evaluate.cell import CLEAN
from acclimate.evaluate.grid_run import GridRun
from acclimate.evaluate.store import Measured
from acclimate.evaluate.task import Grid
from acclimate.evaluate.variant import Scalar, Variant
from acclimate.report.gains import gain_between
from acclimate.report.measured import RowKey
from acclimate.runtime.memory import keep_freed_memory
from acclimate.runtime.progress import live
from acclimate.source.loop import Run
from acclimate.source.train import train

EVERY = 20
"""One of this many training images is held out."""
CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
CLEAN_LOSS = 0.01
PLAIN, GENTLE = "cta-held-out", "cta-held-out-gentle"
"""Names of the bundles: the twin, and its copy with gentle views."""
SOURCE, BASE = Variant("source"), Variant("aligned-bn")
FROZEN = (SOURCE, Variant("ptbn"), Variant("aligned"), BASE)
GENTLE_VIEWS = {"smallest_crop": 0.8, "jitter_probability": 0.0, "grey_probability": 0.0}
"""Options of views that differ only by a crop and a horizontal flip."""
RATE = "update.learning_rate"
ONLINE: dict[str, Scalar] = {"reset": "never"}
NORM: dict[str, Scalar] = {"update.parameters": "norm"}
CANDIDATES: tuple[Mapping[str, Scalar], ...] = (
    *({RATE: rate} for rate in (1e-5, 1e-4, 3e-4, 1e-3, 3e-3)),
    *(ONLINE | {RATE: rate} for rate in (3e-5, 1e-4, 3e-4, 1e-3)),
    *(NORM | {RATE: rate} for rate in (3e-3, 1e-2)),
    *(ONLINE | NORM | {RATE: rate} for rate in (1e-3, 3e-3, 1e-2)),
    *({RATE: 1e-4, "objective.temperature": temperature} for temperature in (0.1, 0.2, 1.0)),
    *({RATE: 1e-4, "normalisation.prior": prior} for prior in (0.0, 64.0)),
)
"""Changes to the settings of `cta`; all variants take one step on each batch."""
GENTLE_CANDIDATES = ({RATE: 1e-3}, ONLINE | {RATE: 1e-4}, ONLINE | NORM | {RATE: 1e-3})
"""Changes that are also measured with gentle views."""
ROWS: tuple[RowKey, ...] = (
    *((PLAIN, variant) for variant in FROZEN),
    *((PLAIN, Variant.of("cta", changes)) for changes in CANDIDATES),
    *((GENTLE, Variant.of("cta", changes)) for changes in GENTLE_CANDIDATES),
)
"""Bundle and variant of each row of the table."""


@dataclass(frozen=True)
class Arguments:
    """Data, and folders for results."""

    data: str
    """Labelled data set, as for methods.py."""
    out: Path
    """Folder for bundles, checkpoints and measurements."""
    results: Path | None = None
    """Folder for held_out.csv and held_out.json."""
    model: str = Budget.model
    epochs: int = Budget.epochs
    images: int = 2500
    """Largest number of held-out images."""
    workers: int = 2
    """Number of processes, each with one thread."""


def main(arguments: Arguments) -> None:
    """Train, measure all settings, choose one."""
    keep_freed_memory()
    make_bundles(arguments)
    out = arguments.out / "settings"
    measured = run_all(grids(arguments), out, workers=arguments.workers)
    rows = [row_of(key, measured) for key in ROWS]
    best = chosen(rows)
    table = Table("method", "setting", "passes", "clean", "mean", f"points over {BASE}", "")
    for row in rows:
        percents = (f"{100 * row[name]:.1f}" for name in ("clean", "mean"))
        gain = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * row[n] for n in ("gain", "low", "high")))
        mark = "chosen" if row is best else ""
        table.add_row(row["method"], row["setting"], f"{row['passes']:.1f}", *percents, gain, mark)
    Console().print(table)
    if arguments.results:
        marked = [row | {"chosen": "yes" if row is best else ""} for row in rows]
        write_table(arguments.results / "held_out.csv", marked)
        finish({"options": recorded_options(arguments)}, 0, arguments.results / "held_out.json")


def grids(arguments: Arguments) -> Iterator[GridRun]:
    """A grid for each bundle."""
    for label in (PLAIN, GENTLE):
        variants = tuple(str(variant) for bundle, variant in ROWS if bundle == label)
        grid = Grid((CLEAN, *CORRUPTIONS), methods=variants, curve=False)
        bundles = {label: arguments.out / "bundles" / label}
        yield GridRun(grid, bundles, (partial(held_out, arguments),))


def make_bundles(arguments: Arguments) -> None:
    """Train a twin on all but the held-out images, and save a copy with gentle views."""
    plain, gentle = (arguments.out / "bundles" / label for label in (PLAIN, GENTLE))
    stage_settings = settings(arguments.epochs)
    source, _ = hold_out(load(arguments.data, "train"), EVERY)
    if not was_made(plain, arguments.model, stage_settings, source.images):
        with live() as progress:
            run = Run(0, arguments.out / "stages" / plain.name, progress=progress)
            train("cta", arguments.model, source, stage_settings, run).save(plain)
    if not was_made(gentle, arguments.model, stage_settings, source.images):
        with_gentle_views(Bundle.load(plain)).save(gentle)


def with_gentle_views(bundle: Bundle) -> Bundle:
    """Copy of a bundle whose objective draws gentle views."""
    assert bundle.objective is not None
    options = dict(bundle.options)
    options["views"] = {**options["views"], **GENTLE_VIEWS}
    objective = type(bundle.objective)(bundle.twin, bundle.preprocessing, **options)
    objective.load_state_dict(bundle.objective.state_dict())
    return replace(bundle, objective=objective, options=options)


def held_out(arguments: Arguments) -> LabelledImages:
    """Training images that the bundles were not trained on."""
    _, held = hold_out(load(arguments.data, "train"), EVERY)
    few = slice(arguments.images)
    return replace(held, images=held.images[few], labels=held.labels[few], paths=held.paths[few])


def row_of(key: RowKey, measured: Sequence[Measured]) -> dict[str, Any]:
    """Row of the results for a bundle and variant."""
    mine, base = ([m for m in measured if m.row == row] for row in (key, (PLAIN, BASE)))
    accuracy = {m.cell.corruption: m.cell.accuracy for m in mine}
    corrupted, of_base = (
        [m for m in cells if m.cell.corruption != CLEAN] for cells in (mine, base)
    )
    gain = gain_between(corrupted, of_base)
    assert gain is not None
    each = {name: accuracy[name] for name in CORRUPTIONS}
    values = {"clean": accuracy[CLEAN], **each, "mean": sum(each.values()) / len(each)}
    values |= {"gain": gain.difference, "low": gain.low, "high": gain.high}
    values["passes"] = mine[0].cell.forward_equivalents
    names = {"setting": setting(key), "method": key[1].method, "n_images": mine[0].cell.n_images}
    return names | {name: round(float(value), 5) for name, value in values.items()}


def setting(key: RowKey) -> str:
    """Description of a variant's changes."""
    bundle, variant = key
    changes = [f"{name} {value}" for name, value in variant.changes]
    return ", ".join([*changes, *(["gentle views"] if bundle == GENTLE else [])]) or "as it is"


def chosen(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The best row with steps among those that keep clean accuracy, or among all if none do."""
    frozen = next(row for row in rows if row["method"] == str(SOURCE))
    stepping = [row for row in rows if row["method"] == "cta"]
    good = [row for row in stepping if row["clean"] >= frozen["clean"] - CLEAN_LOSS]
    return max(good or stepping, key=lambda row: row["mean"])


if __name__ == "__main__":
    start(main, Arguments)
