"""``acclimate align``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from acclimate.bundle_record import is_bundle
from acclimate.commands.common import (
    check_guard,
    check_limit,
    make_bundle,
    new_bundle,
    report_skipped,
)
from acclimate.commands.pixels import Pixels
from acclimate.commands.train import Stages
from acclimate.source.presets import PRESETS


@dataclass(frozen=True)
class Align:
    """Prepare an existing classifier for test-time training, from unlabelled images.

    Copies its encoder, trains this twin with SimCLR, aligns it with the frozen classifier, and
    writes a bundle for "acclimate adapt". No labels are needed.

    Example: acclimate align --model torchvision:resnet18 --weights my.safetensors --images photos
    --out bundle
    """

    model: str
    """Architecture of the classifier: torchvision:NAME, timm:NAME, acclimate:NAME, hf:FOLDER for a
    model of transformers, module:function for a function that builds it (--trust-code), or the
    folder of a bundle whose classifier is taken, such as a zero-shot one."""
    images: str
    """Unlabelled source images: a folder, a zip, an .npy array, or a data set's name. Only
    --trainable-classifier needs labels, as a folder train/CLASS/IMAGE."""
    out: Path
    """Folder of the new bundle; checkpoints are kept beside it until training ends."""
    weights: Path | None = None
    """Checkpoint of the classifier: .safetensors, or a file of torch.save; FILE:ENTRY takes a part
    of it, such as last.ckpt:state_dict_ema."""
    twin: str | None = None
    """Another architecture for the twin, with the same feature size; default: see --start."""
    preset: Literal["small", "paper"] = "small"
    """Defaults of the settings below: small for two CPU cores, or paper for the published ones."""
    epochs: int | None = None
    """Number of epochs of every stage; --align.epochs and the like take precedence."""
    root: Path | None = None
    """Folder of a named data set."""
    domain: str | None = None
    """Domain of a data set that has several: sketch (pacs), fog/3 (cifar10-c)."""
    pixels: Annotated[Pixels, tyro.conf.arg(name="")] = Pixels()
    """Preprocessing, where it differs from what the classifier's library states."""
    class_names: Path | None = None
    """A text file with one class name per line, or JSON; default: ImageNet's or the model's own
    where they are known, otherwise numbers."""
    seed: int = 0
    """Random seed of order and augmentation."""
    device: Literal["cpu"] | None = None
    """Device to train on: cpu; default: a GPU if there is one."""
    trust_code: bool = False
    """Allow running the function that --model or --twin names."""
    memory_limit: Annotated[str | None, tyro.conf.arg(aliases=("--memory",))] = None
    """The most memory that the process may hold, such as 4GB; default: what is free."""
    guard: int | None = None
    """Number of source images that a guard is calibrated on, each with about 45 forward passes of
    each model; 0 leaves it out. Default: 512, and 128 of images above 64 x 64 pixels."""
    settings: Stages = PRESETS["small"]
    """Settings of each stage; the supervised stage is not run."""

    def run(self, console: Console) -> None:
        """Run the command."""
        check_limit(self.memory_limit)
        check_guard(self.guard)
        with new_bundle(self.out):
            self._run(console)

    def _run(self, console: Console) -> None:
        from acclimate.bundle import Bundle
        from acclimate.data import load, load_images
        from acclimate.data.class_names import read_class_names
        from acclimate.data.classes import match_classes
        from acclimate.source.aligned import align

        model = Bundle.load(self.model) if is_bundle(self.model) else self.model
        labels, names = None, self.class_names and read_class_names(self.class_names)
        if isinstance(model, Bundle):
            names = names or list(model.classes)
        where = {"root": self.root, "domain": self.domain}
        if self.settings.trainable_classifier:
            data, preprocessing = self.pixels.load(
                model, lambda size: load(self.images, "train", size=size, **where), console
            )
            names = names or list(data.classes)
            whose = str(self.class_names or "the classifier")
            match = match_classes(names, data.classes, whose=whose, data=self.images, some=True)
            if match.note:
                console.print(match.note, markup=False, highlight=False)
            labels = match.outputs[data.labels]
        else:
            data, preprocessing = self.pixels.load(
                model, lambda size: load_images(self.images, size=size, **where), console
            )
        report_skipped(data.skipped, console)
        make_bundle(
            lambda run: align(
                model,
                data.images,
                weights=self.weights,
                classes=names,
                preprocessing=preprocessing,
                settings=self.settings,
                run=run,
                twin=self.twin,
                labels=labels,
            ),
            self.out,
            console,
            seed=self.seed,
            device=self.device,
            memory_limit=self.memory_limit,
            images=data.images,
            guard=self.guard,
            batches={n: getattr(self.settings, n).batch for n in ("contrastive", "align")},
        )
