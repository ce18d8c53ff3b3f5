"""``acclimate report``."""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console


@dataclass(frozen=True)
class Report:
    """Write one page of a grid's results: tables, figures, methods, how to make it again.

    The page is one file that loads nothing from elsewhere.

    Example: acclimate report runs/main --published published.csv
    """

    folder: tyro.conf.Positional[Path]
    """A folder that acclimate bench wrote."""
    published: Path | None = None
    """A CSV of published numbers to stand beside ours: method,corruption,severity,accuracy,std."""
    title: str = ""
    """The page's heading; one that names the data set without it."""
    out: Path | None = None
    """The page; report.html in the folder without it."""

    def run(self, console: Console) -> None:
        """Do it."""
        from acclimate.report.grid import report_grid

        path = report_grid(self.folder, published=self.published, title=self.title, out=self.out)
        console.print(f"open {path}", markup=False, highlight=False, soft_wrap=True)
