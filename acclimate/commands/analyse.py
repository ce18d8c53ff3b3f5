"""``acclimate analyse``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from acclimate.commands.common import labelled
from acclimate.data.corruptions import PUBLISHED
from acclimate.errors import InputError

_SOURCE_IMAGES = 2000


@dataclass(frozen=True)
class Analyse:
    """Look inside models while they adapt; the report of the same folder shows it.

    semantics: how far apart classes stay, and how far they move from where the classifier knew
    them, before and after adapting (cta, y, cta-c). tsne: the same as pictures, of the first
    corruption. gradients: whether TTT gains where the gradients of its two tasks agree, over the
    corruptions at each severity (ttt).

    Example: acclimate analyse semantics bundles/cta bundles/y --data cifar10.zip --out runs/main

    Example: acclimate analyse gradients bundles/ttt --data cifar10.zip --images 100 --out runs/main
    """

    kind: tyro.conf.Positional[Literal["semantics", "tsne", "gradients"]]
    """The analysis."""
    bundles: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of bundles."""
    data: str
    """A data set with labels: a name, a folder split/class/image, or a zip of one."""
    out: Path
    """The folder of a grid; the analysis becomes analyses/KIND.json there."""
    images: int = 500
    """Test images under each corruption, evenly spaced."""
    corruptions: tuple[str, ...] = PUBLISHED
    """Names of corruptions."""
    steps: int = 20
    """Gradient steps for each batch, for semantics and tsne."""
    batch: int = 128
    """Images that arrive together."""
    seed: int = 0
    """Seed of order, corruption and views."""
    workers: int | None = None
    """Processes that measure the gains for gradients; without it one for each core, or for each
    GPU."""
    root: Path | None = None
    """Folder of a named data set."""
    domain: str | None = None
    """Domain whose images are corrupted, of a set with domains; not for gradients."""
    size: int | None = None
    """Resize images to squares of this many pixels."""

    def run(self, console: Console) -> None:
        """Do it."""
        from acclimate.data import load, subset
        from acclimate.runtime.progress import live
        from acclimate.runtime.workers import processes, usual_workers

        try:
            from acclimate.evaluate.analyses.kinds import KINDS, Analysis
        except ImportError as error:
            raise InputError(
                f"analyses need {error.name}: pip install 'acclimate[analyse]'."
            ) from error
        where = {"root": self.root, "domain": self.domain, "size": self.size}
        analysis = Analysis(
            bundles=labelled(self.bundles),
            source=subset(load(self.data, "train", **where), _SOURCE_IMAGES),
            test=subset(load(self.data, "test", **where), self.images),
            corruptions=self.corruptions,
            steps=self.steps,
            batch=self.batch,
            seed=self.seed,
            engine=processes(usual_workers() if self.workers is None else self.workers),
        )
        with live() as progress:
            path = KINDS[self.kind](analysis, self.out, progress)
        console.print(f"{path} is ready: acclimate report {self.out} shows it", highlight=False)
