"""CTA on CIFAR-10: train on two cores, then compare its parts on corrupted test images.

    python studies/cifar10.py --data cifar10.zip --out runs/cifar10 --results results/cifar10

DATA is a folder or zip of ``train/class/image`` and ``test/class/image``. One training image in
twenty is kept for `held_out.py` to choose settings on. Killed, it resumes. The table, the settings
and the machine are copied to RESULTS.
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
"""One training image in so many is held out."""


@dataclass(frozen=True)
class Arguments:
    """What to run on, and where to write."""

    data: str
    """CIFAR-10 as a folder or zip of split/class/image."""
    out: Path
    """The study's folder: checkpoints, bundle, measurements, report."""
    results: Path | None = None
    """Where the table, the picture and the settings are copied."""
    model: str = STUDY.model
    """The classifier."""
    images: int = STUDY.images
    """Test images under each corruption."""
    seed: int = STUDY.seed
    """Seed of training, corruptions, order and views."""


def main(arguments: Arguments) -> None:
    """Run the study and copy what is to be kept."""
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
        # Not the report: it shows images of the data set, which are not ours to pass on.
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
