"""``acclimate train``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from acclimate.commands.common import check_absent, make_bundle, report_skipped
from acclimate.source.presets import PRESETS, SourceSettings

Stages = Annotated[SourceSettings, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Train:
    """Train all that a method needs before deployment, from labelled images.

    "acclimate methods" lists them. CTA, the default, trains a classifier, a twin, and aligns it.

    Example: acclimate train --data cifar10.zip --model acclimate:resnet26 --out bundle

    Example: acclimate train ttt --data cifar10.zip --model acclimate:preact26 --out bundle
    """

    data: str
    """A data set by name, such as fashion-mnist-mini, or cifar10 or pacs with --root; a folder
    train/class/image; or a zip of one."""
    out: Path
    """Folder of the bundle to make; checkpoints lie beside it until it is done."""
    method: tyro.conf.Positional[str] = "cta"
    """A name that acclimate methods lists."""
    model: str = "acclimate:resnet14-w32"
    """acclimate:NAME, torchvision:NAME or timm:NAME."""
    weights: Path | None = None
    """A .safetensors file to begin from."""
    preset: Literal["small", "paper"] = "small"
    """Where the settings below start from: what two cores can afford, or the published ones."""
    epochs: int | None = None
    """Sets every stage's epochs; --align.epochs and the like still win."""
    target: str | None = None
    """Unlabelled target images, which uda-ss alone is shown beforehand: a folder, a zip, an .npy
    array, or the test images of a data set by its name."""
    target_domain: str | None = None
    """Which part of a target with domains: fog/3 (cifar10-c)."""
    root: Path | None = None
    """Where a named data set lies."""
    domain: str | None = None
    """Which part of a set with domains: sketch (pacs), fog/3 (cifar10-c)."""
    size: int | None = None
    """Resize images to squares of this many pixels."""
    seed: int = 0
    """Of weights, order and views."""
    device: Literal["cpu"] | None = None
    """cpu keeps the training off a GPU that is there."""
    settings: Stages = PRESETS["small"]
    """Each stage's settings."""

    def run(self, console: Console) -> None:
        """Do it."""
        from acclimate.data import load, load_images
        from acclimate.source.train import train

        check_absent(self.out)
        data = load(self.data, "train", root=self.root, domain=self.domain, size=self.size)
        report_skipped(data.skipped, console)
        target = None
        if self.target is not None:
            side = data.images.shape[-1]
            target = load_images(
                self.target, "test", root=self.root, domain=self.target_domain, size=side
            ).images
        make_bundle(
            lambda run: train(
                self.method,
                self.model,
                data,
                self.settings,
                run,
                weights=self.weights,
                target=target,
            ),
            self.out,
            console,
            seed=self.seed,
            device=self.device,
        )
