"""``acclimate measure``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from acclimate.commands.common import (
    check_guard,
    check_limit,
    new_bundle,
    report_skipped,
    with_guard,
)


@dataclass(frozen=True)
class Measure:
    """Add to a bundle what some methods and a guard need to know of source images, without labels.

    Bundles of align, train, quickstart, and of wrap with --images, have it already. Others do not:
    those of older versions, and of wrap without images. No weight changes.

    Example: acclimate measure bundle photos --out measured
    """

    bundle: tyro.conf.Positional[Path]
    """A bundle; it is left as it is."""
    images: tyro.conf.Positional[str]
    """Unlabelled source images: a folder, a zip, an .npy array, or a data set's name. Not the
    images that are to be answered for, nor clean copies of them."""
    out: Path
    """Folder of the new bundle."""
    root: Path | None = None
    """Folder of a named data set."""
    domain: str | None = None
    """Domain of a data set that has several: sketch (pacs), fog/3 (cifar10-c)."""
    device: Literal["cpu"] | None = None
    """Device to measure on: cpu; default: a GPU if there is one."""
    memory_limit: Annotated[str | None, tyro.conf.arg(aliases=("--memory",))] = None
    """The most memory that the process may hold, such as 4GB; default: what is free."""
    guard: int | None = None
    """Number of source images that a guard is calibrated on, each with about 45 forward passes of
    each model; 0 leaves it out. Default: 512, and 128 of images above 64 x 64 pixels."""

    def run(self, console: Console) -> None:
        """Run the command."""
        check_limit(self.memory_limit)
        check_guard(self.guard)
        with new_bundle(self.out):
            self._run(console)

    def _run(self, console: Console) -> None:
        from acclimate.bundle import Bundle
        from acclimate.data import load_images
        from acclimate.runtime.progress import live
        from acclimate.source.loop import Run
        from acclimate.source.statistics import measure

        bundle = Bundle.load(self.bundle)
        data = load_images(
            self.images, size=bundle.preprocessing, root=self.root, domain=self.domain
        )
        report_skipped(data.skipped, console)
        with live() as progress:
            run = Run(progress=progress, device=self.device, memory_limit=self.memory_limit)
            measured = measure(bundle, data.images, run)
            measured = with_guard(measured, data.images, self.guard, run, console)
        measured.save(self.out)
        kinds = sorted({name.split(".")[1] for name in measured.statistics})
        found = f"with {', '.join(kinds)}" if kinds else "in which nothing could be measured"
        console.print(f"{self.out} is the bundle {found}", markup=False, soft_wrap=True)
