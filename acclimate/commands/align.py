"""``acclimate align``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from acclimate.commands.common import check_absent, make_bundle, report_skipped
from acclimate.commands.train import Stages
from acclimate.errors import InputError
from acclimate.source.presets import PRESETS


@dataclass(frozen=True)
class Align:
    """Make a classifier that you already have trainable at test time, from unlabelled images.

    Copies its encoder, trains the twin with SimCLR, aligns it to the frozen classifier, and writes
    a bundle for "acclimate adapt". No labels are needed.

    Example: acclimate align --model torchvision:resnet18 --weights my.safetensors --images photos
    --out bundle
    """

    model: str
    """torchvision:NAME, timm:NAME or acclimate:NAME."""
    images: str
    """Unlabelled source images: a folder, a zip, an .npy array, or a data set's name. Only
    --trainable-classifier wants labels: train/CLASS/image."""
    out: Path
    """Folder of the bundle to make; checkpoints lie beside it until it is done."""
    weights: Path | None = None
    """The classifier's weights, a .safetensors file."""
    twin: str | None = None
    """Another architecture for the twin, with the same feature size; default: as --start says."""
    preset: Literal["small", "paper"] = "small"
    """Where the settings below start from: what two cores can afford, or the published ones."""
    epochs: int | None = None
    """Sets every stage's epochs; --align.epochs and the like still win."""
    root: Path | None = None
    """Where a named data set lies."""
    domain: str | None = None
    """Which part of a set with domains: sketch (pacs), fog/3 (cifar10-c)."""
    size: int | None = None
    """Side of the images that the classifier takes, in pixels; default: the images' own."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """What the classifier's preprocessing subtracts, in units of 0..1; ImageNet's by default."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """What the classifier's preprocessing divides by, in units of 0..1."""
    class_names: Path | None = None
    """A text file with a class name a line; default: numbers."""
    seed: int = 0
    """Of order and views."""
    device: Literal["cpu"] | None = None
    """cpu keeps the training off a GPU that is there."""
    settings: Stages = PRESETS["small"]
    """Each stage's settings; the supervised stage is not run."""

    def run(self, console: Console) -> None:
        """Do it."""
        import torch

        from acclimate.data import load, load_images
        from acclimate.preprocessing import Preprocessing
        from acclimate.source.aligned import align

        check_absent(self.out)
        labels, names = None, _read_names(self.class_names)
        if self.settings.trainable_classifier:
            found = load(self.images, "train", root=self.root, domain=self.domain, size=self.size)
            names = names or list(found.classes)
            if unknown := sorted(set(found.classes) - set(names)):
                raise InputError(
                    f"{self.class_names} does not name the folder {unknown[0]!r} of {self.images}; "
                    f"name every class, in the order of the classifier's outputs."
                )
            labels = torch.tensor([names.index(folder) for folder in found.classes])[found.labels]
        else:
            found = load_images(self.images, root=self.root, domain=self.domain, size=self.size)
        report_skipped(found.skipped, console)
        if found.images.shape[-1] != found.images.shape[-2]:
            raise InputError("the images are not square; pass --size to resize and crop them.")
        make_bundle(
            lambda run: align(
                self.model,
                found.images,
                weights=self.weights,
                classes=names,
                preprocessing=Preprocessing(found.images.shape[-1], self.mean, self.std),
                settings=self.settings,
                run=run,
                twin=self.twin,
                labels=labels,
            ),
            self.out,
            console,
            seed=self.seed,
            device=self.device,
        )


def _read_names(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        names = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text ({error}).") from error
    return [name.strip() for name in names if name.strip()]
