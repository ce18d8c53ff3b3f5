"""``acclimate quickstart``."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from acclimate.errors import InputError


@dataclass(frozen=True)
class Quickstart:
    """Train, align, corrupt, compare and report on embedded data, in minutes on two cores.

    Writes OUT/report.html, OUT/results.csv and OUT/bundle. Run it again with the same --out to
    resume, or to see the table again.
    """

    out: Path = Path("quickstart")
    """Folder for everything that is made."""
    seed: int = 0
    """Of training, corruptions, order and views."""
    images: int = 200
    """Test images, up to 2000: the same ones clean and under each corruption."""

    def run(self, console: Console) -> None:
        """Do it."""
        from acclimate.quickstart import quickstart

        if not 1 <= self.images <= 2000:
            raise InputError(f"--images must lie in 1..2000, not {self.images}.")
        quickstart(self.out, console, seed=self.seed, images=self.images)
