"""``acclimate quickstart``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from acclimate.commands.common import check_folder, check_limit
from acclimate.errors import InputError


@dataclass(frozen=True)
class Quickstart:
    """Train, align, adapt and report on the embedded data, in minutes on two CPU cores.

    Writes OUT/report.html, OUT/results.csv and OUT/bundle. Run it again with the same --out to
    resume, or to print the table again.
    """

    out: Path = Path("quickstart")
    """Folder of the results."""
    seed: int = 0
    """Random seed of training, corruptions, order and augmentation."""
    images: int = 200
    """Number of test images, up to 2000: the same ones clean and under each corruption."""
    memory_limit: Annotated[str | None, tyro.conf.arg(aliases=("--memory",))] = None
    """The most memory that each process may hold, such as 4GB; default: what is free. Within a
    limit that binds, the results are the same up to rounding."""

    def run(self, console: Console) -> None:
        """Run the command."""
        from acclimate.quickstart import quickstart

        if not 1 <= self.images <= 2000:
            raise InputError(f"--images must lie in 1..2000, not {self.images}.")
        check_folder(self.out)
        check_limit(self.memory_limit)
        quickstart(
            self.out,
            console,
            seed=self.seed,
            images=self.images,
            memory_limit=self.memory_limit,
        )
