"""The page of a grid's folder."""

from collections.abc import Sequence
from pathlib import Path

from acclimate.report.against import results_of
from acclimate.report.analyses import read_analyses
from acclimate.report.gains import parts_of
from acclimate.report.measured import by_protocol, held_out_of, read_grid
from acclimate.report.page import Report, write_page
from acclimate.report.protocol_cards import shown_cards
from acclimate.report.published import read_published
from acclimate.report.reproduce import provenance_of
from acclimate.report.samples import Sample

PAGE = "report.html"


def report_grid(
    folder: Path,
    *,
    published: Path | None = None,
    title: str = "",
    out: Path | None = None,
    samples: Sequence[Sample] = (),
    command: str = "",
) -> Path:
    """Write the page of all that was measured into a folder.

    ```python
    report_grid(Path("runs/main"), published=Path("published.csv"))
    ```

    Args:
        folder: A folder of `acclimate bench` or `acclimate quickstart`.
        published: A file of published numbers, see `acclimate.report.published.read_published`.
        title: The page's heading.
        out: The page; without it ``report.html`` in the folder.
        samples: Images to show.
        command: The command that made the folder, where it was another than `acclimate bench`.

    Returns:
        Where the page is.

    Raises:
        InputError: there is nothing to report, a file is damaged, or the page cannot be written.
    """
    measured, manifest = read_grid(folder)
    held_out = held_out_of(measured)
    datasets = dict.fromkeys(each.cell.dataset for each in measured)
    report = Report(
        title=title or f"Test-time training on {', '.join(datasets)}",
        measured=measured,
        settings=manifest["methods"],
        provenance=({"command": command} if command else {}) | provenance_of(manifest),
        held_out=held_out,
        published=read_published(published) if published else (),
        analyses=read_analyses(folder),
        samples=samples,
        protocol_cards=shown_cards(results_of(measured, manifest)),
        parts=parts_of(next(iter(by_protocol(measured).values())), held_out),
    )
    path = out or folder / PAGE
    write_page(path, report)
    return path
