"""Every analysis by its name: from bundles and images to a file beside a grid."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from acclimate.bundle import Bundle
from acclimate.data import LabelledImages, Shift
from acclimate.data.corruptions import SEVERITIES
from acclimate.errors import InputError
from acclimate.evaluate.analyses.embedding import Panel, panels
from acclimate.evaluate.analyses.gradients import agreement, correlation
from acclimate.evaluate.analyses.record import write_record
from acclimate.evaluate.analyses.semantics import Look, semantics
from acclimate.evaluate.grid_run import GridRun, run_grid
from acclimate.evaluate.task import Grid
from acclimate.runtime.progress import Progress
from acclimate.runtime.workers import Engine, here

_OF_TTT = ("joint", "ttt", "ttt-online")
"""Methods that the study of gradients compares, all with one bundle."""


@dataclass(frozen=True)
class Analysis:
    """The bundles and images of an analysis."""

    bundles: Mapping[str, Path]
    """Folders by their labels."""
    source: LabelledImages
    """Clean training images."""
    test: LabelledImages
    corruptions: tuple[str, ...]
    steps: int
    """Gradient steps for each batch."""
    batch: int
    """Images that arrive together."""
    seed: int
    """Seed of order, corruption and views."""
    engine: Engine = here
    """The engine that measures the methods of the study of gradients."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Where bundles and images are, see `acclimate.evaluate.grid_run.GridRun`."""
    memory_limit: str | None = None
    """The most memory that each process may hold; the results do not depend on it."""

    @property
    def settings(self) -> dict[str, Any]:
        """Settings for the record."""
        return {
            "bundles": list(self.bundles),
            "dataset": self.test.name,
            "images": len(self.test.images),
            "steps": self.steps,
            "batch": self.batch,
            "seed": self.seed,
        }

    @property
    def look(self) -> Look:
        """Settings of all adapters and streams."""
        return Look(self.steps, self.batch, self.seed, memory_limit=self.memory_limit)


def semantics_of(analysis: Analysis, out: Path, progress: Progress) -> Path:
    """Davies–Bouldin index and drift of class medians (CTA, Table 6)."""
    shifts = [Shift(name, 5) for name in analysis.corruptions]
    total = 4 * len(shifts) * len(analysis.bundles)

    def rows() -> Iterator[dict[str, Any]]:
        done = 0
        for path in analysis.bundles.values():
            bundle = Bundle.load(path)
            name = _published(bundle)
            for row in semantics(
                bundle, name, analysis.test, analysis.source, shifts, analysis.look
            ):
                done += 1
                progress("look", done, total, f"{name} {row.corruption}")
                yield asdict(row)

    return write_record(
        out,
        "semantics",
        title="Do classes stay apart, and where the classifier knew them?",
        caption="Davies–Bouldin index of the features by true class (lower is further apart), and "
        "how far the class medians of the features that the head reads are from the classifier's "
        "own on source images (sum of Euclidean distances over classes).",
        rows=rows(),
        settings=analysis.settings,
    )


def tsne(analysis: Analysis, out: Path, progress: Progress) -> Path:
    """Features in the plane under the first corruption (CTA, Figure 2)."""
    shift = Shift(analysis.corruptions[0], 5)
    found: list[Panel] = []
    for path in analysis.bundles.values():
        bundle = Bundle.load(path)
        name = _published(bundle)
        for panel in panels(bundle, name, analysis.test, shift, analysis.look):
            found.append(panel)
            progress("embed", len(found), 6 * len(analysis.bundles), f"{name} {panel.state}")
    columns = ("method", "part", "state", "davies_bouldin")
    return write_record(
        out,
        "tsne",
        title=f"Features under {shift.corruption.replace('_', ' ')}",
        caption="t-SNE of encoder and projector: on clean images, under the corruption, and after "
        "adapting to it. The number is the Davies–Bouldin index of the features themselves.",
        rows=[{name: getattr(panel, name) for name in columns} for panel in found],
        settings=analysis.settings,
        more={
            "points": [panel.points.round(2).tolist() for panel in found],
            "labels": [panel.labels.tolist() for panel in found],
            "classes": list(analysis.test.classes),
        },
    )


def gradients(analysis: Analysis, out: Path, progress: Progress) -> Path:
    """Agreement of TTT's two gradients against what TTT gains (TTT, Figure 4)."""
    if len(analysis.bundles) != 1:
        raise InputError("the study of gradients takes one bundle, made by acclimate train ttt.")
    [path] = analysis.bundles.values()
    bundle, accuracy = Bundle.load(path), _accuracy(analysis, out, progress)
    rows = []
    for name, severity in [(name, s) for name in analysis.corruptions for s in SEVERITIES]:
        products = agreement(bundle, analysis.test, Shift(name, severity), seed=analysis.seed)
        joint, ttt, online = (accuracy[method, name, severity] for method in _OF_TTT)
        gains = {"gain_ttt": ttt - joint, "gain_ttt_online": online - joint}
        product = float(products.mean())
        rows.append({"corruption": name, "severity": severity, "inner_product": product} | gains)
        progress("gradients", len(rows), len(SEVERITIES) * len(analysis.corruptions), name)
    found = {
        f"r_{kind}": asdict(
            correlation([row["inner_product"] for row in rows], [row[kind] for row in rows])
        )
        for kind in ("gain_ttt", "gain_ttt_online")
    }
    return write_record(
        out,
        "gradients",
        title="Does TTT gain where its two gradients agree?",
        caption="Inner product of the gradients of cross entropy and of the rotation loss on the "
        "shared parameters, a mean over each test set, against what TTT adds to joint training "
        "there.",
        rows=rows,
        settings=analysis.settings,
        more=found,
    )


def _accuracy(analysis: Analysis, out: Path, progress: Progress) -> dict[tuple, float]:
    """Accuracy by method, corruption and severity; measured where the grid lacks it."""
    grid = Grid(
        analysis.corruptions,
        severities=tuple(SEVERITIES),
        seeds=(analysis.seed,),
        methods=_OF_TTT,
        batch=analysis.batch,
        curve=False,
    )
    loads = (partial(_itself, analysis.test),)
    grid_run = GridRun(grid, analysis.bundles, loads, analysis.options, analysis.memory_limit)
    measured, errors = run_grid(grid_run, out, engine=analysis.engine, progress=progress)
    if errors:
        raise InputError(f"{errors[0][0]} failed: {errors[0][1]}")
    cells = [each.cell for each in measured]
    return {(str(c.variant), c.corruption, c.severity): c.accuracy for c in cells}


def _published(bundle: Bundle) -> str:
    """The bundle's method in its published settings, which take 20 steps a batch."""
    return "cta-paper" if bundle.recipe == "cta" else bundle.method


def _itself(images: LabelledImages) -> LabelledImages:
    return images


KINDS: dict[str, Callable[[Analysis, Path, Progress], Path]] = {
    "semantics": semantics_of,
    "tsne": tsne,
    "gradients": gradients,
}
"""Every analysis by its name."""
