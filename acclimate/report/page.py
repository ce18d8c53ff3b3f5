"""The report: one HTML file that needs nothing beside it."""

import base64
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from PIL import Image
from torch import Tensor

from acclimate.evaluate.cell import Cell
from acclimate.files import write_text
from acclimate.report.figures import (
    accuracy_figure,
    iterations_by_corruption,
    iterations_figure,
    swatches,
)
from acclimate.report.samples import Sample
from acclimate.report.summary import GRADIENT_STEPS, Gain, Summary, summarise

FROZEN, ADAPTED = "source", "cta"

GLOSSARY = {
    "source": "the classifier as it was trained, frozen",
    "ptbn": "the same classifier, its batch norms using the statistics of each batch",
    "aligned": "the aligned twin, frozen",
    "aligned-bn": "the aligned twin with the statistics of each batch",
    "cta": "Cross-Task Alignment in our default settings: the twin takes gradient steps",
    "cta-lr0": "cta at learning rate 0: everything but the gradient steps",
    "cta-paper": "Cross-Task Alignment in the published settings",
}

_LONGEST_SIDE = 96
"""Of a sample image, in pixels; larger ones are shrunk so that the page stays small."""


def write_page(
    path: Path,
    *,
    title: str,
    cells: Sequence[Cell],
    methods_order: Sequence[str],
    held_out: Collection[str],
    samples: Sequence[Sample],
    gains: Sequence[Gain],
    provenance: Mapping[str, object],
    classes: Sequence[str],
) -> None:
    """Write the report, atomically. It loads nothing from elsewhere and runs no script.

    Args:
        path: The HTML file.
        title: Its heading.
        cells: What was measured, on one data set.
        methods_order: The rows of the table.
        held_out: Corruptions kept apart for choosing settings.
        samples: Images to show.
        gains: What each part adds, see `gains_of`.
        provenance: What is needed to run it again: seed, commit, machine, versions, settings,
            command. A value that is a mapping is shown a line an entry.
        classes: The names of the classes.

    Raises:
        InputError: there is nothing to report, or the file cannot be written.
    """
    summary = summarise(cells, methods_order, held_out)
    shown = [cell for cell in cells if cell.method in summary.methods]
    page = _template().render(
        title=title,
        headline=_headline(summary),
        steps=next((gain for gain in gains if gain.label == GRADIENT_STEPS), None),
        dataset=shown[0].dataset,
        order=shown[0].order,
        severities=sorted({cell.severity for cell in shown if cell.severity}),
        seeds=sorted({cell.seed for cell in shown}),
        images=max((c.n_images for c in shown if c.severity), default=0),
        clean_images=max((c.n_images for c in shown if not c.severity), default=0),
        classes=classes,
        summary=summary,
        table=list(zip(summary.methods, summary.texts(), summary.best().tolist())),
        held_out=[column.name for column in summary.columns if column.kind == "held out"],
        reported=[column.name for column in summary.columns if column.kind == "reported"],
        gains=gains,
        iterations=iterations_figure(shown, methods_order, held_out),
        iterations_by_corruption=iterations_by_corruption(shown, methods_order, held_out),
        accuracies=accuracy_figure(summary, methods_order),
        swatches=swatches(methods_order),
        samples=samples,
        glossary={name: GLOSSARY[name] for name in summary.methods if name in GLOSSARY},
        provenance=provenance,
    )
    write_text(path, page)


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("acclimate.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"png": _png, "spaced": lambda name: name.replace("_", " ")}
    return environment.get_template("page.html.jinja")


def _headline(summary: Summary) -> dict[str, float] | None:
    """The four numbers of the first sentence, in percent as shown; none if one is missing."""
    numbers = {
        f"{name}_{column}": round(100 * summary.value(method, column), 1)
        for name, method in (("frozen", FROZEN), ("adapted", ADAPTED))
        for column in ("clean", "mean")
    }
    return None if np.isnan(list(numbers.values())).any() else numbers


def _png(image: UInt8[Tensor, "3 height width"]) -> str:
    """An image as the data URI of a PNG."""
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
