"""``acclimate train``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from acclimate.commands.common import (
    check_guard,
    check_limit,
    make_bundle,
    new_bundle,
    report_skipped,
)
from acclimate.source.presets import PRESETS, SourceSettings

Stages = Annotated[SourceSettings, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Train:
    """Train everything that a method needs before deployment, on labelled images.

    "acclimate methods" lists the methods. The default, CTA, trains a classifier and a twin, and
    aligns the twin with the classifier.

    Example: acclimate train --data cifar10.zip --model acclimate:resnet26 --out bundle

    Example: acclimate train ttt --data cifar10.zip --model acclimate:preact26 --out bundle
    """

    data: str
    """Labelled images: a data set's name (fashion-mnist-mini; with --root also cifar10, pacs and
    others), a folder train/CLASS/IMAGE, or a zip of such a folder."""
    out: Path
    """Folder of the new bundle; checkpoints are kept beside it until training ends."""
    method: tyro.conf.Positional[str] = "cta"
    """Name of a method; acclimate methods lists them."""
    model: str = "acclimate:resnet14-w32"
    """Architecture of the classifier: acclimate:NAME, torchvision:NAME, timm:NAME, hf:FOLDER, or
    module:function for a function that builds it (--trust-code)."""
    weights: Path | None = None
    """Checkpoint of initial weights: .safetensors, or a file of torch.save; default: random."""
    preset: Literal["small", "paper"] = "small"
    """Defaults of the settings below: small for two CPU cores, or paper for the published ones."""
    epochs: int | None = None
    """Number of epochs of every stage; --align.epochs and the like take precedence."""
    target: str | None = None
    """Unlabelled target images, only for uda-ss: a folder, a zip, an .npy array, or a data set's
    name for its test images."""
    target_domain: str | None = None
    """Domain of a target data set that has several: fog/3 (cifar10-c)."""
    root: Path | None = None
    """Folder of a named data set."""
    domain: str | None = None
    """Domain of a data set that has several: sketch (pacs), fog/3 (cifar10-c)."""
    size: int | None = None
    """Height and width to resize the images to, in pixels."""
    seed: int = 0
    """Random seed of initial weights, order and augmentation."""
    device: Literal["cpu"] | None = None
    """Device to train on: cpu; default: a GPU if there is one."""
    trust_code: bool = False
    """Allow running the function that --model names."""
    memory_limit: Annotated[str | None, tyro.conf.arg(aliases=("--memory",))] = None
    """The most memory that the process may hold, such as 4GB; default: what is free."""
    guard: int | None = None
    """Number of source images that a guard is calibrated on, each with about 45 forward passes of
    each model; 0 leaves it out. Default: 512, and 128 of images above 64 x 64 pixels."""
    settings: Stages = PRESETS["small"]
    """Settings of each stage."""

    def run(self, console: Console) -> None:
        """Run the command."""
        check_limit(self.memory_limit)
        check_guard(self.guard)
        with new_bundle(self.out):
            self._run(console)

    def _run(self, console: Console) -> None:
        from acclimate.data import load, load_images
        from acclimate.methods import RECIPES
        from acclimate.methods import method as find_method
        from acclimate.source.train import train

        stages = RECIPES[find_method(self.method).recipe].stages
        data = load(self.data, "train", root=self.root, domain=self.domain, size=self.size)
        report_skipped(data.skipped, console)
        target = None
        if self.target is not None:
            height, width = data.images.shape[-2:]
            target = load_images(
                self.target,
                "test",
                root=self.root,
                domain=self.target_domain,
                size=(height, width),
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
            memory_limit=self.memory_limit,
            images=data.images,
            guard=self.guard,
            batches={n: getattr(self.settings, n).batch for n in stages},
        )
