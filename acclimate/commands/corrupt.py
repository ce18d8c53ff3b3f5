"""``acclimate corrupt``."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from acclimate.commands.common import check_parent, report_skipped
from acclimate.data.corruptions import CORRUPTIONS, PUBLISHED, SEVERITIES
from acclimate.errors import InputError


@dataclass(frozen=True)
class Corrupt:
    """Write a data set's corrupted version, or one picture of what the corruptions look like.

    Small images become NAME.npy, the severities one behind another, and labels.npy, as CIFAR-10-C;
    larger ones folders CORRUPTION/SEVERITY/CLASS, as ImageNet-C. manifest.json says what was made
    of what, with checksums. Killed, it goes on when the same command is run again. An image gets
    the same corruption in every run with the same seed.

    Example: acclimate corrupt cifar10 --root data --out cifar10-c

    Example: acclimate corrupt photos --unlabelled --preview corruptions.png
    """

    data: tyro.conf.Positional[str]
    """A data set's name, a folder split/class/image, or a zip of one; with --unlabelled any folder
    or zip, or an .npy array."""
    out: Path | None = None
    """Folder of the corrupted set. Give this, --preview, or both."""
    preview: Path | None = None
    """A picture to write (.png, .jpg, .pdf or .svg): corruptions by severities, of two images."""
    corruptions: tuple[str, ...] = PUBLISHED
    """Their names; "all" are the 15 that results are reported on and the extra four."""
    severities: tuple[int, ...] = tuple(SEVERITIES)
    """1 is mild, 5 severe."""
    split: Literal["train", "test"] = "test"
    """Which images."""
    unlabelled: bool = False
    """Take all images of a folder or zip, whatever its structure; no classes, no split."""
    root: Path | None = None
    """Where a named data set lies."""
    domain: str | None = None
    """Which domain, of a data set that has several."""
    size: int | None = None
    """Resize images to squares of this many pixels."""
    seed: int = 0
    """Of all that is random."""
    layout: Literal["npy", "folders"] | None = None
    """Default: folders for images of 64 pixels and more."""
    image_format: Literal["jpeg", "png"] = "jpeg"
    """Of images in folders, not of .npy: JPEG of quality 85, as published, or PNG, lossless."""

    def run(self, console: Console) -> None:
        """Do it."""
        from acclimate.data import load, load_images
        from acclimate.data.corrupted.plan import CorruptionPlan
        from acclimate.data.corrupted.write import write_corrupted
        from acclimate.report.preview import write_preview
        from acclimate.runtime.progress import live

        if self.out is None and self.preview is None:
            raise InputError("give --out for the corrupted set, --preview for a picture, or both.")
        for path in filter(None, (self.out, self.preview)):
            check_parent(path)
        if self.out and self.out.resolve().is_relative_to(Path(self.data).resolve()):
            raise InputError(f"{self.out} lies in {self.data}: choose another --out.")
        names = tuple(CORRUPTIONS) if "all" in self.corruptions else self.corruptions
        plan = CorruptionPlan(names, self.severities, self.seed, self.layout, self.image_format)
        where = {"root": self.root, "domain": self.domain, "size": self.size}
        if self.unlabelled:
            data = load_images(self.data, **where)
        else:
            data = load(self.data, self.split, **where)
        report_skipped(data.skipped, console)
        if self.preview is not None:
            write_preview(data.images, self.preview, names, self.severities, seed=self.seed)
            console.print(f"{self.preview}: the picture", markup=False)
        if self.out is None:
            return
        name = f"{self.data}/{self.domain}" if self.domain else self.data
        started = time.monotonic()
        with live() as progress:
            written = write_corrupted(data, name, self.out, plan, progress=progress)
        console.print(
            f"{self.out}: {len(names)} corruptions x {len(self.severities)} severities of "
            f"{len(data.images):,} images; {written.made:,} were made now, "
            f"in {time.monotonic() - started:.0f} s",
            markup=False,
        )
