"""Choose settings without the test set: on held-out source images with speckle noise and saturate.

    python studies/held_out.py quickstart --out runs/quickstart --retrain
    python studies/held_out.py cifar10 --data cifar10.zip --out runs/cifar10

A fixed fraction of the training images is held out and used for evaluation. In each part of the
table the study chooses the row with the best mean accuracy under the two corruptions. Candidates
are the rows that lose at most one point of clean accuracy to the frozen classifier, or all rows if
there are none. An interrupted run can be resumed. `cifar10.py` with the same --out reuses the
training.
"""

import csv
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import cifar10
import tyro
from rich.console import Console
from rich.table import Table

from acclimate import quickstart
from acclimate.bundle import Bundle
from acclimate.commands.script import start
from acclimate.data import LabelledImages, Shift, hold_out, load, subset
from acclimate.data.streams import CLEAN
from acclimate.evaluate.measure import measure
from acclimate.evaluate.variant import Scalar, Variant
from acclimate.methods import METHODS
from acclimate.methods.changes import settings_record
from acclimate.runtime import machine
from acclimate.runtime.determinism import repeat_bits
from acclimate.runtime.memory import keep_freed_memory
from acclimate.runtime.progress import Progress, live
from acclimate.source.loop import Run
from acclimate.source.presets import SourceSettings
from acclimate.source.train import train
from acclimate.storage import atomic, sealed
from acclimate.study import Study

STUDIES = {"quickstart": quickstart.STUDY, "cifar10": cifar10.STUDY}
EVERY = {"quickstart": 5, "cifar10": cifar10.EVERY}
"""One of this many training images is held out."""
CLEAN_LOSS = 0.01
SHARES = (0.35, 0.5, 0.7, 1.0)
PRIORS = (0, 4, 16, 64, 256)
RATE = "update.learning_rate"
STEPS: tuple[Mapping[str, Scalar], ...] = (
    {"steps": 1, RATE: 0.0},
    {"steps": 1, RATE: 1e-5},
    {"steps": 1, RATE: 1e-4},
    {"steps": 1, RATE: 1e-3},
    {"steps": 1, RATE: 1e-4, "update.parameters": "norm"},
    {"steps": 1, RATE: 1e-3, "update.parameters": "norm"},
    {"steps": 1, RATE: 1e-4, "objective.temperature": 0.1},
    {"steps": 1, RATE: 1e-5, "reset": "never"},
    {"steps": 1, RATE: 1e-4, "reset": "never"},
    {"steps": 3, RATE: 1e-4},
    {"steps": 10, RATE: 1e-5},
    {"steps": 10, RATE: 1e-4},
    {"steps": 20, RATE: 1e-6},
)


@dataclass(frozen=True)
class Arguments:
    """The study, and folders for results."""

    study: tyro.conf.Positional[Literal["quickstart", "cifar10"]]
    """Study whose classifier and training settings are used."""
    out: Path
    """Folder for checkpoints and measurements."""
    data: str | None = None
    """Folder or zip of CIFAR-10, for cifar10."""
    results: Path | None = None
    """Folder for held_out.csv and held_out.json."""
    images: int = 1000
    """Number of held-out images for settings with gradient steps."""
    retrain: bool = False
    """Also measure other alignment settings; each repeats the alignment stage."""


@dataclass(frozen=True)
class Row:
    """Accuracy of one setting."""

    part: str
    """Part of the table; one row of each part is chosen."""
    setting: str
    method: str
    n_images: int
    clean: float
    speckle_noise: float
    saturate: float

    @property
    def mean(self) -> float:
        """Mean accuracy under the two corruptions."""
        return (self.speckle_noise + self.saturate) / 2


@dataclass(frozen=True)
class Trials:
    """Study, data and folder that all rows share."""

    out: Path
    study: Study
    train: LabelledImages
    held: LabelledImages
    progress: Progress

    def bundle(self, settings: SourceSettings, stages: str = "stages") -> Bundle:
        """Train the study's classifier and a twin with these settings; load finished stages."""
        run = Run(seed=self.study.seed, folder=self.out / stages, progress=self.progress)
        return train("cta", self.study.model, self.train, settings, run)

    def row(
        self,
        part: str,
        setting: str,
        bundle: Bundle,
        method: str,
        changes: Mapping[str, Scalar] | None = None,
        images: int | None = None,
    ) -> Row:
        """Measure a setting of a method, or load the measurement if it exists."""
        data = subset(self.held, images)
        variant = Variant.of(method, changes or {})
        network = bundle.twin if METHODS[method].model == "twin" else bundle.classifier
        identity = [
            method,
            settings_record(variant.settings),
            data.name,
            len(data.images),
            asdict(self.study),
        ]
        stamp = sealed.digest(network.state_dict(), json.dumps(identity))[:16]
        path = self.out / "rows" / f"{part}, {setting}, {method}-{stamp}.json"
        if not path.exists():
            severity = self.study.severity
            accuracy = {
                shift.corruption: measure(bundle, variant, data, [shift], batch=self.study.batch)[
                    0
                ].accuracy
                for shift in (CLEAN, Shift("speckle_noise", severity), Shift("saturate", severity))
            }
            clean = accuracy.pop("none")
            row = Row(part, setting, method, len(data.images), clean, **accuracy)
            atomic.write_text(path, json.dumps(asdict(row)))
        return Row(**json.loads(path.read_text()))


def rows(trials: Trials, images: int, *, retrain: bool) -> Iterator[Row]:
    """Rows of all settings. Later parts use the best settings of earlier parts."""
    settings = trials.study.settings
    twins = {share: trials.bundle(replace(settings, interpolation=share)) for share in SHARES}
    frozen = trials.row("classifier", "as trained", twins[1.0], "source")
    yield frozen
    yield trials.row("classifier", "fewer images", twins[1.0], "source", None, images)
    yield trials.row("classifier", "as trained", twins[1.0], "ptbn")
    for share, twin in twins.items():
        yield trials.row("interpolation, frozen", f"{share:g}", twin, "aligned")
    shares = {
        share: trials.row("interpolation", f"{share:g}", twin, "aligned-bn")
        for share, twin in twins.items()
    }
    yield from shares.values()
    best = chosen(list(shares.values()), frozen)
    twin = next(twins[share] for share, row in shares.items() if row == best)
    for prior in PRIORS:
        changes = {"normalisation.prior": prior}
        yield trials.row("prior", f"{prior} images", twin, "aligned-bn", changes)
    for changes in STEPS:
        setting = ", ".join(f"{name} {value}" for name, value in changes.items())
        yield trials.row("steps", setting, twin, "cta", changes, images)
    yield trials.row("published steps", "as published", twin, "cta-paper", None, images)
    without_steps = {RATE: 0.0}
    yield trials.row("published steps", f"{RATE} 0", twin, "cta-paper", without_steps, images)
    for name, changed in alignments(settings) if retrain else ():
        stages = f"stages, {name}"
        trained = trials.out / "stages" / "supervised.safetensors"
        if not (copied := trials.out / stages / trained.name).exists():
            atomic.write_atomically(copied, partial(shutil.copyfile, trained))
        yield trials.row("alignment", name, trials.bundle(changed, stages), "aligned-bn")


def alignments(settings: SourceSettings) -> Iterator[tuple[str, SourceSettings]]:
    """Other settings of the alignment, each without interpolation."""
    settings = replace(settings, interpolation=1.0)
    yield "as it is", settings
    for temperature in (0.1, 0.2, 1.0):
        yield f"temperature {temperature}", replace(settings, align_temperature=temperature)
    for crop in sorted({0.2, 0.5, 0.9} - {settings.views.smallest_crop}):
        views = replace(settings.views, smallest_crop=crop)
        yield f"smallest crop {crop}", replace(settings, views=views)
    skipped = replace(settings.contrastive, epochs=0)
    yield "no contrastive stage", replace(settings, contrastive=skipped)
    yield "separate start", replace(settings, start="separate")


def chosen(candidates: list[Row], frozen: Row) -> Row:
    """The row with the best mean among those that keep clean accuracy, or among all if none do."""
    good = [row for row in candidates if row.clean >= frozen.clean - CLEAN_LOSS]
    return max(good or candidates, key=lambda row: row.mean)


def main(arguments: Arguments) -> None:
    """Measure all rows, print and write them."""
    keep_freed_memory()
    repeat_bits()
    study = STUDIES[arguments.study]
    data = arguments.data or ("fashion-mnist-mini" if arguments.study == "quickstart" else None)
    if data is None:
        raise SystemExit("held_out.py cifar10 needs --data, the folder or zip of CIFAR-10.")
    train, held = hold_out(load(data, "train"), EVERY[arguments.study])
    with live() as progress:
        trials = Trials(arguments.out, study, train, held, progress)
        measured = list(rows(trials, arguments.images, retrain=arguments.retrain))
    parts = {row.part: [r for r in measured if r.part == row.part] for row in measured}
    frozen = {row.n_images: row for row in measured if row.method == "source"}
    best = [chosen(part, frozen[part[0].n_images]) for part in parts.values()]
    names = ("part", "setting", "method", "n_images")
    shown = ("clean", "speckle_noise", "saturate", "mean")
    table = Table(*names, *shown, "chosen")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, *shown, "chosen"])
    for row in measured:
        labels = [getattr(row, name) for name in names]
        mark = "yes" if row in best else ""
        writer.writerow([*labels, *(f"{getattr(row, name):.4f}" for name in shown), mark])
        accuracies = (f"{100 * getattr(row, name):.1f}" for name in shown)
        table.add_row(*map(str, labels), *accuracies, mark)
    Console().print(table)
    if arguments.results:
        atomic.write_text(arguments.results / "held_out.csv", text.getvalue())
        record = {
            "study": asdict(study),
            "every": EVERY[arguments.study],
            "training seconds": trials.bundle(study.settings).provenance["seconds"],
            "machine": machine.describe(),
        }
        atomic.write_text(arguments.results / "held_out.json", json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    start(main, Arguments)
