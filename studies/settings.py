"""Which settings CTA adapts with best at 12 forward passes an image, chosen without a target label.

    python studies/settings.py --data cifar10.zip --out runs/methods --results results/methods

The twin is made as `methods.py` makes its own, but from nineteen twentieths of the training images.
On the rest, under four corruptions that no table reports, every setting answers for the same
images. The best mean is chosen of those that lose at most a point to the frozen classifier on the
same clean images. Killed, it resumes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bundles import Budget, in_processes, settings, was_made
from jaxtyping import Bool
from rich.console import Console
from rich.table import Table

from acclimate.adapt import Adapter
from acclimate.bundle import Bundle
from acclimate.commands.script import finish, start, told, write_table
from acclimate.data import LabelledImages, Shift, hold_out, load
from acclimate.data.streams import CLEAN
from acclimate.evaluate.measure import measure, settings_of
from acclimate.methods import AdapterSettings
from acclimate.report.intervals import paired_interval
from acclimate.runtime.memory import keep_freed_memory
from acclimate.runtime.progress import live
from acclimate.source.loop import Run
from acclimate.source.train import train
from acclimate.storage.atomic import write_atomically

EVERY = 20
"""One training image in so many is held out."""
CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
CLEAN_LOSS = 0.01
BASE = "aligned-bn"
FROZEN = ("source", "ptbn", "aligned", BASE)
GENTLE = {"smallest_crop": 0.8, "jitter_probability": 0.0, "grey_probability": 0.0}
"""Views that differ by a crop and a mirroring alone."""
ONLINE = {"reset": "never"}
NORM = {"parameters": "norm"}
CANDIDATES: tuple[dict[str, Any], ...] = (
    *({"learning_rate": rate} for rate in (1e-5, 1e-4, 3e-4, 1e-3, 3e-3)),
    *(ONLINE | {"learning_rate": rate} for rate in (3e-5, 1e-4, 3e-4, 1e-3)),
    *(NORM | {"learning_rate": rate} for rate in (3e-3, 1e-2)),
    *(ONLINE | NORM | {"learning_rate": rate} for rate in (1e-3, 3e-3, 1e-2)),
    *({"learning_rate": 1e-4, "temperature": temperature} for temperature in (0.1, 0.2, 1.0)),
    *({"learning_rate": 1e-4, "prior": prior} for prior in (0.0, 64.0)),
    {"learning_rate": 1e-3, "views": GENTLE},
    ONLINE | {"learning_rate": 1e-4, "views": GENTLE},
    ONLINE | NORM | {"learning_rate": 1e-3, "views": GENTLE},
)
"""What is tried in place of `cta`'s own settings; all take one step a batch."""


@dataclass(frozen=True)
class Arguments:
    """What to run on, and where to write."""

    data: str
    """As for methods.py."""
    out: Path
    """Bundle, checkpoints and answers."""
    results: Path | None = None
    """Where held_out.csv and held_out.json are written."""
    model: str = Budget.model
    epochs: int = Budget.epochs
    images: int = 2500
    """Held-out images at most."""
    workers: int = 2
    """Processes of one thread each."""


@dataclass(frozen=True)
class Setting:
    """A method with changed settings."""

    method: str
    changes: Mapping[str, Any]

    def __str__(self) -> str:
        named = {n: "gentle" if n == "views" else v for n, v in self.changes.items()}
        return ", ".join(f"{name} {value}" for name, value in named.items()) or "as it is"


def main(arguments: Arguments) -> None:
    """Train, try everything, choose."""
    keep_freed_memory()
    make_bundle(arguments)
    tried = [Setting(name, {}) for name in FROZEN]
    tried += [Setting("cta", changes) for changes in CANDIDATES]
    answers = in_processes(partial(answered, arguments), tried, arguments.workers, "settings")
    found = {(str(setting), setting.method): mine for setting, mine in zip(tried, answers)}
    rows = [row_of(arguments, setting, found) for setting in tried]
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
        finish({"options": told(arguments)}, 0, arguments.results / "held_out.json")


def make_bundle(arguments: Arguments) -> None:
    """A twin from all but the held-out images, if it is not there."""
    path, wanted = folder(arguments), settings(arguments.epochs)
    source, _ = hold_out(load(arguments.data, "train"), EVERY)
    if was_made(path, arguments.model, wanted, source.images):
        return
    with live() as progress:
        run = Run(0, arguments.out / "stages" / path.name, progress=progress)
        train("cta", arguments.model, source, wanted, run).save(path)


def folder(arguments: Arguments) -> Path:
    """Of the bundle."""
    return arguments.out / "bundles" / "cta-held-out"


def held_out(arguments: Arguments) -> LabelledImages:
    """The images that it did not learn from."""
    _, held = hold_out(load(arguments.data, "train"), EVERY)
    few = slice(arguments.images)
    return replace(held, images=held.images[few], labels=held.labels[few])


def answered(arguments: Arguments, setting: Setting) -> Bool[np.ndarray, "shifts images"]:
    """Whether each answer was right, on clean images and under each corruption."""
    path = arguments.out / "settings" / f"{setting.method}, {setting}.npy"
    if not path.exists():
        keep_freed_memory()
        bundle, changed = changed_bundle(arguments, setting)
        right = []
        for shift in (CLEAN, *(Shift(name, 5) for name in CORRUPTIONS)):
            data = held_out(arguments)
            (cell,) = measure(bundle, setting.method, data, [shift], settings=changed)
            assert cell.answers is not None
            order = cell.answers.of(np.arange(len(data.images)))
            right.append(cell.answers.right[order])
        write_atomically(path, lambda aside: _save(aside, np.stack(right)))
    return np.load(path)


def changed_bundle(arguments: Arguments, setting: Setting) -> tuple[Bundle, AdapterSettings]:
    """The bundle and the adapter's settings; views belong to the bundle's objective."""
    bundle = Bundle.load(folder(arguments))
    changes = dict(setting.changes)
    if views := changes.pop("views", None):
        options = bundle.options | {"views": {**bundle.options["views"], **views}}
        objective = type(bundle.objective)(bundle.twin, bundle.preprocessing, **options)
        bundle = replace(bundle, objective=objective, options=options)
    return bundle, replace(settings_of(setting.method), **changes)


def row_of(
    arguments: Arguments, setting: Setting, found: Mapping[tuple[str, str], np.ndarray]
) -> dict[str, Any]:
    """What is written of a setting."""
    clean, *corrupted = found[str(setting), setting.method]
    base = found["as it is", BASE][1:]
    images = np.tile(np.arange(len(clean)), len(corrupted))
    interval = paired_interval(np.concatenate(corrupted), np.concatenate(base), groups=images)
    bundle, changed = changed_bundle(arguments, setting)
    each = dict(zip(CORRUPTIONS, (right.mean() for right in corrupted)))
    numbers = {"clean": clean.mean(), **each, "mean": np.mean(list(each.values()))}
    numbers |= dict(zip(("gain", "low", "high"), interval))
    numbers["passes"] = Adapter(bundle, setting.method, changed).cost().forward_equivalents
    names = {"setting": str(setting), "method": setting.method, "n_images": len(clean)}
    return names | {name: round(float(value), 5) for name, value in numbers.items()}


def chosen(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The best of those with steps that keep clean accuracy, or of all if none does."""
    frozen = next(row for row in rows if row["method"] == "source")
    stepping = [row for row in rows if row["method"] == "cta"]
    good = [row for row in stepping if row["clean"] >= frozen["clean"] - CLEAN_LOSS]
    return max(good or stepping, key=lambda row: row["mean"])


def _save(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, values)


if __name__ == "__main__":
    start(main, Arguments)
