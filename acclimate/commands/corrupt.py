"""``acclimate corrupt``."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from acclimate.commands.common import check_file, check_folder, check_named, report_skipped
from acclimate.errors import InputError
from acclimate.storage.names import as_text


@dataclass(frozen=True)
class Corrupt:
    """Write a corrupted copy of a data set, or a picture that shows the corruptions.

    Small images are written as CORRUPTION.npy, all severities in one array, and labels.npy, like
    CIFAR-10-C; larger ones as folders CORRUPTION/SEVERITY/CLASS, like ImageNet-C. manifest.json
    records the source, the settings and checksums. After an interruption, run the same command
    again to continue. The same seed gives every image the same corruption in every run.

    Example: acclimate corrupt cifar10 --root data --out cifar10-c

    Example: acclimate corrupt photos --unlabelled --preview corruptions.png
    """

    data: tyro.conf.Positional[str]
    """Data set to corrupt: a name, a folder split/class/image, or a zip of one; with --unlabelled
    any folder or zip, or an .npy array."""
    out: Path | None = None
    """Folder to write the corrupted data set to. Give this, --preview, or both."""
    preview: Path | None = None
    """Picture to write (.png, .jpg, .pdf or .svg): two images under each corruption and
    severity."""
    corruptions: tuple[str, ...] | None = None
    """Names of the corruptions; without it the 15 of the benchmark. "all" means these and its
    extra four."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Severities, from 1 (mild) to 5 (severe)."""
    split: Literal["train", "test"] = "test"
    """Split to corrupt."""
    unlabelled: bool = False
    """Use all images of a folder or zip, whatever its structure, without classes or splits."""
    root: Path | None = None
    """Folder of a named data set."""
    domain: str | None = None
    """Domain to corrupt, for a data set with domains."""
    size: int | None = None
    """Resize and centre-crop images to squares of this many pixels."""
    seed: int = 0
    """Seed of the corruptions."""
    layout: Literal["npy", "folders"] | None = None
    """Layout on disk. Default: folders for images of 64 pixels and more, otherwise npy."""
    image_format: Literal["jpeg", "png"] = "jpeg"
    """File format in the layout folders: JPEG of quality 85, as published, or lossless PNG."""

    def run(self, console: Console) -> None:
        """Run the command."""
        from acclimate.data import load, load_images
        from acclimate.data.corrupted.begin import check_place
        from acclimate.data.corrupted.plan import CorruptionPlan
        from acclimate.data.corrupted.write import write_corrupted
        from acclimate.data.corruptions import CORRUPTIONS, PUBLISHED
        from acclimate.report.preview import write_preview
        from acclimate.runtime.progress import live

        if self.out is None and self.preview is None:
            raise InputError(
                "there is nothing to write: give --out for the corrupted data set, --preview for "
                "a picture, or both."
            )
        if self.out:
            check_named(self.out)
            check_place(self.out)
            check_folder(self.out)
        if self.preview:
            check_named(self.preview, "--preview")
            check_file(self.preview)
        if self.out and self.out.resolve().is_relative_to(Path(self.data).resolve()):
            raise InputError(f"{self.out} is inside {self.data}: choose an --out outside the data.")
        names = PUBLISHED if self.corruptions is None else self.corruptions
        names = tuple(CORRUPTIONS) if "all" in names else names
        plan = CorruptionPlan(names, self.severities, self.seed, self.layout, self.image_format)
        where = {"root": self.root, "domain": self.domain, "size": self.size}
        if self.unlabelled:
            data = load_images(self.data, **where)
        else:
            data = load(self.data, self.split, **where)
        report_skipped(data.skipped, console)
        if self.preview is not None:
            write_preview(data.images, self.preview, names, self.severities, seed=self.seed)
            console.print(f"{self.preview}: picture of the corruptions", markup=False)
        if self.out is None:
            return
        name = f"{self.data}/{self.domain}" if self.domain else self.data
        started = time.monotonic()
        with live() as progress:
            written = write_corrupted(data, as_text(name), self.out, plan, progress=progress)
        console.print(
            f"{self.out}: {len(names)} corruptions x {len(self.severities)} severities of "
            f"{len(data.images):,} images; {written.made:,} images written "
            f"in {time.monotonic() - started:.0f} s",
            markup=False,
        )
