r"""An ImageNet classifier that nobody here trained, on photographs: how far to trust a batch.

    python studies/photographs.py --data imagenet-500.zip --out runs/photographs \
        --results results/photographs

EfficientNet-Lite0 with its public weights (see own_pipeline.py) is wrapped with one half of the
photographs, without labels, and measured on the other half; then the halves change places, so that
every photograph is answered for once. `bn-adapt` trusts a batch as far as was measured on the first
half; beside it stand the frozen classifier and fixed priors. ``--twin`` also aligns a twin on the
same half. An interrupted study resumes.
"""

import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean

import own_pipeline
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from acclimate.bundle_record import read_record
from acclimate.commands.script import start, write_table
from acclimate.data import LabelledImages, hold_out, load
from acclimate.evaluate.grid_run import MANIFEST, RESULTS, GridRun, run_grid
from acclimate.evaluate.results import read_results
from acclimate.evaluate.task import Grid
from acclimate.preprocessing import Preprocessing
from acclimate.runtime.progress import Progress, live
from acclimate.runtime.workers import processes, usual_workers
from acclimate.source.aligned import align
from acclimate.source.loop import Run
from acclimate.source.presets import PRESETS, with_epochs
from acclimate.source.wrapped import wrap
from acclimate.storage.atomic import write_atomically
from acclimate.storage.sealed import plain

PREPROCESSING = Preprocessing(
    224,
    mean=own_pipeline.MEAN,
    std=own_pipeline.STD,
    resize=256,
    interpolation="bicubic",
)
CORRUPTIONS = (
    "none",
    "gaussian_noise",
    "defocus_blur",
    "motion_blur",
    "fog",
    "brightness",
    "contrast",
    "jpeg_compression",
    "pixelate",
    "snow",
)
PRIOR = "ptbn:normalisation.prior="
STATISTICS = ("bn-adapt", "ptbn", *(f"{PRIOR}{prior}" for prior in (16, 64, 256, 1024)))
TWIN = ("aligned", "aligned-bn", "cta")
COLUMNS = ("method", "batch", "severity", "clean", "corrupted")


@dataclass(frozen=True)
class Options:
    """Where the photographs are, and what is measured."""

    data: Path
    """A zip of photographs, test/WNID/NUMBER.jpg."""
    out: Path
    """Folder for bundles and measurements."""
    results: Path | None = None
    """Folder for the results that are kept."""
    batches: tuple[int, ...] = (64, 16, 1)
    """Images that arrive together."""
    severities: tuple[int, ...] = (5,)
    twin: bool = False
    """Whether a twin is aligned, and measured in batches of 64."""
    epochs: int = 1
    """Epochs of both stages of a twin."""
    workers: int | None = None
    """Processes; default: one for each core."""


def main(options: Options) -> None:
    """Make the bundles, measure, and write what is kept."""
    with live() as progress:
        bundles = [_bundle(options, number, progress) for number in (0, 1)]
        for grid in _grids(options):
            for number, bundle in enumerate(bundles):
                half = partial(photographs, options.data, 1 - number)
                job = GridRun(grid, {f"half-{number}": bundle}, (half,))
                engine = processes(options.workers or usual_workers())
                run_grid(job, options.out / "grid", engine=engine, progress=progress)
    rows = summary(options.out / "grid" / RESULTS)
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*(f"{row[name]}" for name in COLUMNS))
    Console().print(table)
    for bundle in bundles:
        print(read_record(bundle)["trust"])
    if options.results:
        options.results.mkdir(parents=True, exist_ok=True)
        write_table(options.results / "summary.csv", rows)
        for name in (RESULTS, MANIFEST):
            shutil.copy(options.out / "grid" / name, options.results / name)


def photographs(data: Path, half: int) -> LabelledImages:
    """Every second photograph."""
    return hold_out(load(data, "test", size=PREPROCESSING), every=2)[half]


def summary(path: Path) -> list[dict[str, object]]:
    """Mean accuracy over the halves, in percent: clean, and over all corruptions."""
    found: dict[tuple, list[float]] = defaultdict(list)
    for cell in read_results(path):
        found[str(cell.variant), cell.batch, int(cell.severity)].append(100 * cell.accuracy)
    return [
        {
            "method": method,
            "batch": batch,
            "severity": severity,
            "clean": round(mean(found[method, batch, 0]), 1),
            "corrupted": round(mean(values), 1),
        }
        for (method, batch, severity), values in sorted(found.items())
        if severity
    ]


def _grids(options: Options) -> Sequence[Grid]:
    common = {"corruptions": CORRUPTIONS, "severities": options.severities, "curve": False}
    grids = [Grid(**common, methods=("source",), batch=64)]
    grids += [Grid(**common, methods=STATISTICS, batch=batch) for batch in options.batches]
    return [*grids, Grid(**common, methods=TWIN, batch=64)] if options.twin else grids


def _bundle(options: Options, half: int, progress: Progress) -> Path:
    path = options.out / ("twins" if options.twin else "bundles") / f"half-{half}"
    if path.exists():
        return path
    images = photographs(options.data, half).images
    weights = options.out / "weights.safetensors"
    write_atomically(
        weights, lambda temporary: save_file(plain(own_pipeline.network().state_dict()), temporary)
    )
    model = f"timm:{own_pipeline.NAME}"
    common = {"weights": weights, "preprocessing": PREPROCESSING}
    run = Run(folder=path.with_name(f"{path.name}.stages"), progress=progress)
    if options.twin:
        settings = with_epochs(PRESETS["small"], options.epochs)
        bundle = align(model, images, settings=settings, run=run, **common)
    else:
        bundle = wrap(model, images, run=run, **common)
    bundle.save(path)
    return path


if __name__ == "__main__":
    start(main, Options)
