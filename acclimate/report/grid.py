"""The page of a grid's folder."""

from collections.abc import Iterable
from pathlib import Path

from acclimate.data.corruptions import PUBLISHED
from acclimate.report.analyses import read_analyses
from acclimate.report.measured import Measured, read_grid
from acclimate.report.page import Report, write_page
from acclimate.report.published import read_published
from acclimate.report.reproduce import provenance_of
from acclimate.report.summary import CLEAN

PAGE = "report.html"


def report_grid(
    folder: Path, *, published: Path | None = None, title: str = "", out: Path | None = None
) -> Path:
    """Write the page of all that was measured into a folder.

    Args:
        folder: Of `acclimate bench`.
        published: A file of published numbers, see `acclimate.report.published.read_published`.
        title: The page's heading.
        out: The page; without it ``report.html`` in the folder.

    Returns:
        Where the page is.

    Raises:
        InputError: there is nothing to report, a file is damaged, or the page cannot be written.
    """
    measured, manifest = read_grid(folder)
    datasets = dict.fromkeys(each.cell.dataset for each in measured)
    report = Report(
        title=title or f"Test-time training on {', '.join(datasets)}",
        measured=measured,
        settings=manifest["methods"],
        provenance=provenance_of(manifest),
        held_out=_held_out(measured),
        published=read_published(published) if published else (),
        analyses=read_analyses(folder),
    )
    path = out or folder / PAGE
    write_page(path, report)
    return path


def _held_out(measured: Iterable[Measured]) -> tuple[str, ...]:
    """Of the benchmark's nineteen corruptions the four that are for choosing settings."""
    seen = dict.fromkeys(each.cell.corruption for each in measured)
    extra = tuple(name for name in seen if name != CLEAN and name not in PUBLISHED)
    return extra if any(name in PUBLISHED for name in seen) else ()
