"""``acclimate adapt``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from acclimate.commands.common import check_parent
from acclimate.errors import InputError
from acclimate.methods import METHODS, AdapterSettings

# A part's options are those of its kind in the default: no subcommands.
Settings = Annotated[AdapterSettings, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands]


@dataclass(frozen=True)
class Adapt:
    """Predict the classes of a folder of images while adapting to them, without labels.

    Images may have any size and mode. Writes a CSV with one row per image, in natural order: path,
    prediction, confidence, and the frozen classifier's prediction and confidence beside them.
    Images that cannot be read are listed with the reason.

    The settings below start from the method's own. Another kind of a part is chosen by its name:
    --update adam, sgd, sam; --normalisation source, batch, running; --reset batch, never;
    --memory batch, recent; --answer after, before, teacher; --aftermath teacher, pull (one of
    them); --selection all; --correction none; --objective clustering, contrastive,
    contrastive-moments, entropy, flow, invariance, masked-reconstruction, noise-contrastive,
    reconstruction, rotation. Then the options of that kind can be given.

    Example: acclimate adapt bundle photos --out predictions.csv

    Example: acclimate adapt bundle photos --out out.csv --steps 3 --update.learning-rate 1e-4

    Example: acclimate adapt bundle photos --out out.csv --update sgd --update.momentum 0.9
    """

    bundle: tyro.conf.Positional[Path]
    """A bundle from acclimate align, train or quickstart."""
    images: tyro.conf.Positional[Path]
    """A folder, searched recursively, or a zip."""
    out: Path
    """The CSV file to write."""
    method: str = "cta"
    """A name that acclimate methods lists; default: the bundle's."""
    device: str | None = None
    """cpu or cuda; default: a GPU if there is one."""
    batch: int = 128
    """Number of images that are adapted to together; larger batches estimate the shift better."""
    memory_limit: Annotated[str | None, tyro.conf.arg(aliases=("--memory",))] = None
    """The most memory that the process may hold, such as 2GB; default: what the machine has free.
    The answers are the same."""
    settings: Settings = METHODS["cta"].settings
    """How to adapt; starts from the method's own settings."""

    def run(self, console: Console) -> None:
        """Do it."""
        from acclimate.adapt.folder import adapt_folder, write_predictions
        from acclimate.bundle import Bundle
        from acclimate.runtime.progress import live

        if self.out.is_dir():
            raise InputError(f"{self.out} is a folder; give the CSV file to write as --out.")
        check_parent(self.out)
        bundle = Bundle.load(self.bundle)
        with live() as progress:
            answers = list(
                adapt_folder(
                    bundle,
                    self.images,
                    method=self.method,
                    settings=self.settings,
                    batch=self.batch,
                    device=self.device,
                    memory_limit=self.memory_limit,
                    progress=progress,
                )
            )
        write_predictions(answers, self.out)
        skipped = [answer for answer in answers if answer.skipped]
        for answer in skipped:
            console.print(f"skipped {answer.path}: {answer.skipped}", markup=False)
        changed = sum(answer.prediction != answer.frozen_prediction for answer in answers)
        console.print(
            f"{self.out}: {len(answers) - len(skipped)} answers, {changed} of them changed by "
            f"adapting, {len(skipped)} images skipped",
            markup=False,
        )
