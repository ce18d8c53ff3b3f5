"""CTA on CIFAR-10: train on two cores, then compare its components on corrupted test images.

    python studies/cifar10.py --data cifar10.zip --out runs/cifar10 --results results/cifar10

DATA is a folder or zip of ``train/class/image`` and ``test/class/image``. One training image in
twenty is held out for `held_out.py`, which chooses settings. An interrupted run can be resumed. The
table, the settings and the machine are written to RESULTS.
"""

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console

from acclimate.bundle import read_record
from acclimate.commands.script import start
from acclimate.data import hold_out, load
from acclimate.quickstart import HELD_OUT, REPORTED
from acclimate.report.gains import parts_of
from acclimate.report.measured import by_protocol, held_out_of
from acclimate.runtime import machine
from acclimate.runtime.determinism import repeat_bits
from acclimate.runtime.memory import keep_freed_memory
from acclimate.source.presets import PRESETS
from acclimate.storage.atomic import write_text
from acclimate.study import Study, run_study

STUDY = Study(
    title="CTA on CIFAR-10",
    model="acclimate:resnet14-w32",
    settings=PRESETS["small"],
    corruptions=(*REPORTED, *HELD_OUT),
)

EVERY = 20
"""One of this many training images is held out."""


@dataclass(frozen=True)
class Arguments:
    """Data, and folders for results."""

    data: str
    """CIFAR-10 as a folder or zip of split/class/image."""
    out: Path
    """Folder of the study: checkpoints, bundle, measurements and report."""
    results: Path | None = None
    """Folder to which the table, the picture and the settings are copied."""
    model: str = STUDY.model
    """Name of the classifier."""
    images: int = STUDY.images
    """Number of test images per corruption."""
    seed: int = STUDY.seed
    """Seed of training, corruptions, order and views."""


def main(arguments: Arguments) -> None:
    """Run the study and copy its results."""
    keep_freed_memory()
    repeat_bits()
    study = replace(STUDY, model=arguments.model, images=arguments.images, seed=arguments.seed)
    train, _ = hold_out(load(arguments.data, "train"), EVERY)
    test = load(arguments.data, "test")
    measured = run_study(
        study,
        train,
        test,
        arguments.out / "study",
        command="python studies/cifar10.py --data cifar10.zip --out OUT",
        console=Console(),
        stages=arguments.out / "stages",
    )
    if arguments.results:
        arguments.results.mkdir(parents=True, exist_ok=True)
        # The report is not copied: it contains images of the data set, which we may not publish.
        for name in ("results.csv", "picture.png"):
            shutil.copy(arguments.out / "study" / name, arguments.results / name)
        parts = parts_of(next(iter(by_protocol(measured).values())), held_out_of(measured))
        record = {
            "study": asdict(study),
            "gains": [{"label": label, **asdict(gain)} for label, gain in parts],
            "machine": machine.describe(),
            "training": read_record(arguments.out / "study" / "bundle")["provenance"],
        }
        write_text(arguments.results / "settings.json", json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    start(main, Arguments)
