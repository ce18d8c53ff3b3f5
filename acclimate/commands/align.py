"""``acclimate align``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from acclimate.commands.common import check_absent, make_bundle, report_skipped
from acclimate.commands.train import Stages
from acclimate.errors import InputError
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
    """Architecture of the classifier: torchvision:NAME, timm:NAME or acclimate:NAME."""
    images: str
    """Unlabelled source images: a folder, a zip, an .npy array, or a data set's name. Only
    --trainable-classifier needs labels, as a folder train/CLASS/IMAGE."""
    out: Path
    """Folder of the new bundle; checkpoints are kept beside it until training ends."""
    weights: Path | None = None
    """A .safetensors file of the classifier's weights."""
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
    size: int | None = None
    """Height and width of the classifier's input, in pixels; default: the images' own size."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean that the classifier's preprocessing subtracts, per channel, for images in 0..1."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation that the preprocessing divides by, per channel, for images in 0..1."""
    class_names: Path | None = None
    """A text file with one class name per line; default: numbers."""
    seed: int = 0
    """Random seed of order and augmentation."""
    device: Literal["cpu"] | None = None
    """Device to train on: cpu; default: a GPU if there is one."""
    memory_limit: Annotated[str | None, tyro.conf.arg(aliases=("--memory",))] = None
    """The most memory that the process may hold, such as 4GB; default: what is free."""
    settings: Stages = PRESETS["small"]
    """Settings of each stage; the supervised stage is not run."""

    def run(self, console: Console) -> None:
        """Run the command."""
        import torch

        from acclimate.data import load, load_images
        from acclimate.preprocessing import Preprocessing
        from acclimate.source.aligned import align

        check_absent(self.out)
        labels, names = None, _read_names(self.class_names)
        if self.settings.trainable_classifier:
            data = load(self.images, "train", root=self.root, domain=self.domain, size=self.size)
            names = names or list(data.classes)
            if unknown := sorted(set(data.classes) - set(names)):
                raise InputError(
                    f"{self.class_names} does not name the folder {unknown[0]!r} of {self.images}; "
                    "name every class, in the order of the classifier's outputs."
                )
            labels = torch.tensor([names.index(folder) for folder in data.classes])[data.labels]
        else:
            data = load_images(self.images, root=self.root, domain=self.domain, size=self.size)
        report_skipped(data.skipped, console)
        if data.images.shape[-1] != data.images.shape[-2]:
            raise InputError("the images are not square; pass --size to resize and crop them.")
        make_bundle(
            lambda run: align(
                self.model,
                data.images,
                weights=self.weights,
                classes=names,
                preprocessing=Preprocessing(data.images.shape[-1], self.mean, self.std),
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
        )


def _read_names(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        names = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as text ({error}); give a UTF-8 text file."
        ) from error
    return [name.strip() for name in names if name.strip()]
