"""``acclimate wrap``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from acclimate.commands.common import (
    check_guard,
    check_limit,
    new_bundle,
    report_skipped,
    with_guard,
)
from acclimate.commands.pixels import Pixels
from acclimate.errors import InputError


@dataclass(frozen=True)
class Wrap:
    """Make a bundle of a trained classifier as it is, without training.

    The bundle is for methods that learn with any classifier: source, bn-adapt, ptbn, tent, tipi,
    eta, sar, deyo. No weight and no statistic changes. "acclimate align" adds what the other
    methods need. With some hundred unlabelled images it is measured how far bn-adapt should trust a
    batch, what eata, petta, rmt and foa need of the source, and what a guard goes by.

    Example: acclimate wrap --model torchvision:resnet18 --weights last.ckpt --images photos --out
    bundle
    """

    model: str
    """Architecture of the classifier: torchvision:NAME, timm:NAME, acclimate:NAME, hf:FOLDER for a
    model of transformers, or module:function for a function that builds it (--trust-code)."""
    out: Path
    """Folder of the new bundle."""
    images: str | None = None
    """Unlabelled source images: a folder, a zip, an .npy array, or a data set's name."""
    weights: Path | None = None
    """Checkpoint of the classifier: .safetensors, or a file of torch.save; FILE:ENTRY takes a part
    of it, such as last.ckpt:state_dict_ema."""
    root: Path | None = None
    """Folder of a named data set."""
    domain: str | None = None
    """Domain of a data set that has several: sketch (pacs), fog/3 (cifar10-c)."""
    pixels: Annotated[Pixels, tyro.conf.arg(name="")] = Pixels()
    """Preprocessing, where it differs from what the classifier's library states."""
    class_names: Path | None = None
    """A text file with one class name per line, or JSON; default: ImageNet's or the model's own
    where they are known, otherwise numbers."""
    device: Literal["cpu"] | None = None
    """Device to measure on: cpu; default: a GPU if there is one."""
    memory_limit: Annotated[str | None, tyro.conf.arg(aliases=("--memory",))] = None
    """The most memory that the process may hold, such as 4GB; default: what is free."""
    guard: int | None = None
    """Number of --images that a guard is calibrated on, each with about 90 forward passes; 0 leaves
    it out. Default: 512, and 128 of images above 64 x 64 pixels."""
    trust_code: bool = False
    """Allow running the function that --model names."""

    def run(self, console: Console) -> None:
        """Run the command."""
        check_limit(self.memory_limit)
        check_guard(self.guard)
        if self.guard and self.images is None:
            raise InputError("--guard is a number of source images; give --images, too.")
        with new_bundle(self.out):
            self._run(console)

    def _run(self, console: Console) -> None:
        from acclimate.data import load_images
        from acclimate.data.class_names import read_class_names
        from acclimate.runtime.progress import live
        from acclimate.source.loop import Run
        from acclimate.source.wrapped import wrap

        images, given = None, self.images
        if given is None:
            preprocessing = self.pixels.stated(self.model, console)
        else:
            where = {"root": self.root, "domain": self.domain}
            data, preprocessing = self.pixels.load(
                self.model, lambda size: load_images(given, size=size, **where), console
            )
            report_skipped(data.skipped, console)
            images = data.images
        with live() as progress:
            run = Run(progress=progress, device=self.device, memory_limit=self.memory_limit)
            bundle = wrap(
                self.model,
                images,
                weights=self.weights,
                classes=self.class_names and read_class_names(self.class_names),
                preprocessing=preprocessing,
                run=run,
            )
            if images is not None:
                bundle = with_guard(bundle, images, self.guard, run, console)
        bundle.save(self.out)
        console.print(
            f"{self.out} is ready for {bundle.method}: acclimate adapt {self.out} FOLDER --out "
            "predictions.csv",
            markup=False,
            soft_wrap=True,
        )
