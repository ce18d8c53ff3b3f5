"""Which settings CTA adapts with best at 12 forward passes an image, chosen without a target label.

    python studies/settings.py --data cifar10.zip --out runs/methods --results results/methods

The twin is made as `methods.py` makes its own, but from nineteen twentieths of the training images.
On the rest, under four corruptions that no table reports, every setting answers for the same
images. The best mean is chosen of those that lose at most a point to the frozen classifier on the
same clean images. Each setting is a variant of a grid in ``runs/methods/settings``. Views belong to
the bundle's objective and are no setting of the adapter, so variants with gentle views adapt a copy
of the bundle that has these. Killed, it resumes.
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
"""One training image in so many is held out."""
CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
CLEAN_LOSS = 0.01
PLAIN, GENTLE = "cta-held-out", "cta-held-out-gentle"
"""Bundles: the twin, and its copy with gentle views."""
SOURCE, BASE = Variant("source"), Variant("aligned-bn")
FROZEN = (SOURCE, Variant("ptbn"), Variant("aligned"), BASE)
GENTLE_VIEWS = {"smallest_crop": 0.8, "jitter_probability": 0.0, "grey_probability": 0.0}
"""Views that differ by a crop and a mirroring alone."""
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
"""Settings in place of `cta`'s own; all take one step on each batch."""
GENTLE_CANDIDATES = ({RATE: 1e-3}, ONLINE | {RATE: 1e-4}, ONLINE | NORM | {RATE: 1e-3})
"""The same with gentle views."""
ROWS: tuple[RowKey, ...] = (
    *((PLAIN, variant) for variant in FROZEN),
    *((PLAIN, Variant.of("cta", changes)) for changes in CANDIDATES),
    *((GENTLE, Variant.of("cta", changes)) for changes in GENTLE_CANDIDATES),
)
"""Bundle and variant of each row of the table."""


@dataclass(frozen=True)
class Arguments:
    """What to run on, and where to write."""

    data: str
    """A data set, as for methods.py."""
    out: Path
    """Folder of bundles, checkpoints and answers."""
    results: Path | None = None
    """Where held_out.csv and held_out.json are written."""
    model: str = Budget.model
    epochs: int = Budget.epochs
    images: int = 2500
    """Held-out images at most."""
    workers: int = 2
    """Processes, each with one thread."""


def main(arguments: Arguments) -> None:
    """Train, try everything, choose."""
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
    """A twin from all but the held-out images, and its copy with gentle views."""
    plain, gentle = (arguments.out / "bundles" / label for label in (PLAIN, GENTLE))
    wanted = settings(arguments.epochs)
    source, _ = hold_out(load(arguments.data, "train"), EVERY)
    if not was_made(plain, arguments.model, wanted, source.images):
        with live() as progress:
            run = Run(0, arguments.out / "stages" / plain.name, progress=progress)
            train("cta", arguments.model, source, wanted, run).save(plain)
    if not was_made(gentle, arguments.model, wanted, source.images):
        with_gentle_views(Bundle.load(plain)).save(gentle)


def with_gentle_views(bundle: Bundle) -> Bundle:
    """The same bundle, with other views for its objective."""
    assert bundle.objective is not None
    options = dict(bundle.options)
    options["views"] = {**options["views"], **GENTLE_VIEWS}
    objective = type(bundle.objective)(bundle.twin, bundle.preprocessing, **options)
    objective.load_state_dict(bundle.objective.state_dict())
    return replace(bundle, objective=objective, options=options)


def held_out(arguments: Arguments) -> LabelledImages:
    """Images that the bundles did not learn from."""
    _, held = hold_out(load(arguments.data, "train"), EVERY)
    few = slice(arguments.images)
    return replace(held, images=held.images[few], labels=held.labels[few], paths=held.paths[few])


def row_of(key: RowKey, measured: Sequence[Measured]) -> dict[str, Any]:
    """The written row of a bundle and variant."""
    mine, base = ([m for m in measured if m.row == row] for row in (key, (PLAIN, BASE)))
    accuracy = {m.cell.corruption: m.cell.accuracy for m in mine}
    corrupted, of_base = ([m for m in some if m.cell.corruption != CLEAN] for some in (mine, base))
    gain = gain_between(corrupted, of_base)
    assert gain is not None
    each = {name: accuracy[name] for name in CORRUPTIONS}
    numbers = {"clean": accuracy[CLEAN], **each, "mean": sum(each.values()) / len(each)}
    numbers |= {"gain": gain.difference, "low": gain.low, "high": gain.high}
    numbers["passes"] = mine[0].cell.forward_equivalents
    names = {"setting": setting(key), "method": key[1].method, "n_images": mine[0].cell.n_images}
    return names | {name: round(float(value), 5) for name, value in numbers.items()}


def setting(key: RowKey) -> str:
    """The changes of a variant in words."""
    bundle, variant = key
    changes = [f"{name} {value}" for name, value in variant.changes]
    return ", ".join([*changes, *(["gentle views"] if bundle == GENTLE else [])]) or "as it is"


def chosen(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The best of the rows with steps that keep clean accuracy, or of all such if none does."""
    frozen = next(row for row in rows if row["method"] == str(SOURCE))
    stepping = [row for row in rows if row["method"] == "cta"]
    good = [row for row in stepping if row["clean"] >= frozen["clean"] - CLEAN_LOSS]
    return max(good or stepping, key=lambda row: row["mean"])


if __name__ == "__main__":
    start(main, Arguments)
