"""The quickstart: from nothing to an adapted classifier and a report, on embedded data."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from acclimate.data import load, subset
from acclimate.evaluate.store import Measured
from acclimate.runtime.workers import processes, usual_workers
from acclimate.source.loop import Training
from acclimate.source.presets import PRESETS
from acclimate.study import Study, run_study
from acclimate.views import SimCLRViews

REPORTED = (
    "gaussian_noise",
    "impulse_noise",
    "defocus_blur",
    "motion_blur",
    "fog",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
)
HELD_OUT = ("speckle_noise", "saturate")
"""Corruptions for choosing settings, applied to held-out source images; excluded from means."""

IMAGES = 200
"""Default number of test images: one batch. The published steps take most of the time."""

STUDY = Study(
    title="acclimate quickstart",
    model="acclimate:resnet8",
    settings=replace(
        PRESETS["small"],
        supervised=Training(
            epochs=10,
            batch=64,
            optimizer="sgd",
            learning_rate=0.3,
            final_learning_rate=1e-4,
            weight_decay=5e-4,
        ),
        contrastive=Training(epochs=1, batch=64, warm_up=0.5),
        align=Training(epochs=3, batch=64, learning_rate=1e-3, warm_up=0.5),
        crop_padding=2,
        cutout=0,
        interpolation=0.35,
        # Garments fill their images, so test images never look like much smaller crops.
        views=SimCLRViews(smallest_crop=0.9, brightness=0.6, contrast=0.6),
    ),
    corruptions=(*REPORTED, *HELD_OUT),
    batch=200,
)


def quickstart(
    out: Path,
    console: Console,
    *,
    seed: int = 0,
    images: int = IMAGES,
    memory_limit: str | None = None,
) -> list[Measured]:
    """Train, align, corrupt, compare and report on Fashion-MNIST mini.

    ```python
    measured = quickstart(Path("quickstart"), Console())
    ```

    Args:
        out: Folder of the study. A second run with the same folder resumes it.
        console: Console for the table.
        seed: Seed of training, corruptions, order and views.
        images: Number of test images, up to 2000; the same clean and under each corruption.
        memory_limit: The most memory that each process may hold.

    Raises:
        InputError: see `acclimate.study.run_study`.
    """
    return run_study(
        replace(STUDY, seed=seed, images=images),
        load("fashion-mnist-mini", "train"),
        subset(load("fashion-mnist-mini", "test"), images),
        out,
        command=f"acclimate quickstart --seed {seed} --images {images}",
        console=console,
        # Two processes with one thread each are faster than one process with two threads.
        engine=processes(usual_workers()),
        memory_limit=memory_limit,
    )
