"""``acclimate adapt``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from acclimate.commands.common import check_parent
from acclimate.errors import InputError
from acclimate.methods import METHODS, AdapterSettings

Settings = Annotated[AdapterSettings, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Adapt:
    """Answer for a folder of images while adapting to them; no labels, any size and mode.

    Writes a CSV with a row an image, in natural order: path, prediction, confidence, and the
    frozen classifier's prediction and confidence beside them. Images that cannot be read are
    listed with the reason.
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
    """Images that are adapted to together; larger ones estimate the shift better."""
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
