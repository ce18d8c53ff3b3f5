"""``acclimate analyse``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from acclimate.commands.common import check_limit, check_named, check_parent, labelled
from acclimate.commands.pixels import pixels_of
from acclimate.errors import InputError

_SOURCE_IMAGES = 2000


@dataclass(frozen=True)
class Analyse:
    """Analyse features and gradients during adaptation, for the report of the same folder.

    semantics: the separation of the classes' features and their drift from the source features,
    before and after adaptation (bundles cta, y, cta-c). tsne: t-SNE plots of these features under
    the first corruption. gradients: whether TTT gains more where the gradients of its two tasks
    agree, over corruptions at each severity (bundle ttt).

    Example: acclimate analyse semantics bundles/cta bundles/y --data cifar10.zip --out runs/main

    Example: acclimate analyse gradients bundles/ttt --data cifar10.zip --images 100 --out runs/main
    """

    kind: tyro.conf.Positional[Literal["semantics", "tsne", "gradients"]]
    """Kind of analysis."""
    bundles: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of bundles."""
    data: str
    """Labelled data set: a name, a folder split/class/image, or a zip of one."""
    out: Path
    """Folder of a grid; the analysis is written to analyses/KIND.json there."""
    images: int = 500
    """Number of test images per corruption, evenly spaced."""
    corruptions: tuple[str, ...] | None = None
    """Names of corruptions; without it the benchmark's fifteen."""
    steps: int = 20
    """Gradient steps for each batch, for semantics and tsne."""
    batch: int = 128
    """Batch size."""
    seed: int = 0
    """Seed of order, corruption and views."""
    workers: int | None = None
    """Number of processes that measure gains, for gradients; by default one per core or GPU."""
    memory_limit: Annotated[str | None, tyro.conf.arg(aliases=("--memory",))] = None
    """The most memory that each process may hold, such as 4GB; default: what is free. The results
    are the same."""
    root: Path | None = None
    """Folder of the data set, if it is given by name."""
    domain: str | None = None
    """Domain whose images are corrupted, if the data set has domains; not for gradients."""
    size: int | None = None
    """Resize images to squares of this many pixels; default: as the bundles' preprocessing."""
    trust_code: bool = False
    """Allow running the function that a bundle names as its architecture."""

    def run(self, console: Console) -> None:
        """Run the analysis."""
        from acclimate.data import load, subset
        from acclimate.data.corruptions import PUBLISHED
        from acclimate.runtime.progress import live
        from acclimate.runtime.workers import processes, usual_workers

        check_named(self.out)
        check_parent(self.out / "analyses")
        check_limit(self.memory_limit)
        try:
            from acclimate.evaluate.analyses.kinds import KINDS, Analysis
        except ImportError as error:
            raise InputError(
                f"analyses need {error.name}: pip install 'acclimate[analyse]'."
            ) from error
        bundles = labelled(self.bundles)
        size = pixels_of(bundles) if self.size is None else self.size
        where = {"root": self.root, "domain": self.domain, "size": size}
        given = {"data": self.data, "root": self.root, "size": self.size, "images": self.images}
        analysis = Analysis(
            bundles=bundles,
            source=subset(load(self.data, "train", **where), _SOURCE_IMAGES),
            test=subset(load(self.data, "test", **where), self.images),
            corruptions=PUBLISHED if self.corruptions is None else self.corruptions,
            steps=self.steps,
            batch=self.batch,
            seed=self.seed,
            memory_limit=self.memory_limit,
            engine=processes(usual_workers() if self.workers is None else self.workers),
            options={name: value for name, value in given.items() if value is not None}
            | {"bundles": {label: str(path) for label, path in bundles.items()}},
        )
        with live() as progress:
            path = KINDS[self.kind](analysis, self.out, progress)
        console.print(f"{path} is ready: acclimate report {self.out} shows it", highlight=False)
