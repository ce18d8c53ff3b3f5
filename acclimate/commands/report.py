"""``acclimate report``."""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from acclimate.commands.common import check_file, output


@dataclass(frozen=True)
class Report:
    """Write a report of a grid's results: tables, figures, methods and the commands to repeat it.

    The report is a single HTML file without external resources.

    Example: acclimate report runs/main --published published.csv
    """

    folder: tyro.conf.Positional[Path]
    """Folder that acclimate bench wrote."""
    published: Path | None = None
    """CSV of published results to compare with: method,corruption,severity,accuracy,std."""
    title: str = ""
    """Title of the report; by default it names the data set."""
    out: Path | None = None
    """Path of the report, or - for standard output; by default report.html in the folder."""

    def run(self, console: Console) -> None:
        """Write the report."""
        from acclimate.report.grid import PAGE, report_grid

        out, console = output(self.out or self.folder / PAGE, console)
        if self.out or self.folder.is_dir():
            check_file(out)
        path = report_grid(self.folder, published=self.published, title=self.title, out=out)
        console.print(f"open {path}", markup=False, highlight=False, soft_wrap=True)
