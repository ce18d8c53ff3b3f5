"""The verbs of the command line: each a dataclass whose fields are its flags."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from acclimate.errors import InputError
from acclimate.methods import METHODS, AdapterSettings
from acclimate.source.presets import PRESETS, CTASettings

Stages = Annotated[CTASettings, tyro.conf.arg(name="")]
Settings = Annotated[AdapterSettings, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Quickstart:
    """Train, align, corrupt, compare and report on embedded data, in minutes on two cores.

    Writes OUT/report.html, OUT/results.csv and OUT/bundle. Run it again with the same --out to
    resume, or to see the table again.
    """

    out: Path = Path("quickstart")
    """Folder for everything that is made."""
    seed: int = 0
    """Of training, corruptions, order and views."""
    images: int = 500
    """Test images under each corruption, up to 2000; clean ones are all answered for."""

    def run(self, console: Console) -> None:
        """Do it."""
        from acclimate.quickstart import quickstart

        if not 1 <= self.images <= 2000:
            raise InputError(f"--images must lie in 1..2000, not {self.images}.")
        quickstart(self.out, console, seed=self.seed, images=self.images)


@dataclass(frozen=True)
class Train:
    """Train all source stages of CTA from labelled images: classifier, twin, alignment.

    Example: acclimate train --data cifar10.zip --model acclimate:resnet26 --out bundle
    """

    data: str
    """fashion-mnist-mini, cifar10 or cifar100 with --root, a folder train/class/image, or a zip."""
    out: Path
    """Folder of the bundle to make; checkpoints lie beside it until it is done."""
    model: str = "acclimate:resnet14-w32"
    """acclimate:NAME, torchvision:NAME or timm:NAME."""
    weights: Path | None = None
    """A .safetensors file to begin from."""
    preset: Literal["small", "paper"] = "small"
    """Where the settings below start from: what two cores can afford, or the published ones."""
    epochs: int | None = None
    """Sets every stage's epochs; --align.epochs and the like still win."""
    root: Path | None = None
    """Where torchvision's files lie."""
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
        from acclimate.data import load
        from acclimate.source.cta import train_cta

        _check_absent(self.out)
        data = load(self.data, "train", root=self.root, size=self.size)
        _report_skipped(data.skipped, console)
        _make_bundle(
            self,
            lambda run: train_cta(self.model, data, self.settings, run, weights=self.weights),
            console,
        )


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
    """Where torchvision's files lie."""
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
        from acclimate.source.cta import align

        _check_absent(self.out)
        labels, names = None, _read_names(self.class_names)
        if self.settings.trainable_classifier:
            found = load(self.images, "train", root=self.root, size=self.size)
            names = names or list(found.classes)
            if unknown := sorted(set(found.classes) - set(names)):
                raise InputError(
                    f"{self.class_names} does not name the folder {unknown[0]!r} of {self.images}; "
                    f"name every class, in the order of the classifier's outputs."
                )
            labels = torch.tensor([names.index(folder) for folder in found.classes])[found.labels]
        else:
            found = load_images(self.images, root=self.root, size=self.size)
        _report_skipped(found.skipped, console)
        if found.images.shape[-1] != found.images.shape[-2]:
            raise InputError("the images are not square; pass --size to resize and crop them.")
        _make_bundle(
            self,
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
            console,
        )


@dataclass(frozen=True)
class Adapt:
    """Answer for a folder of images while adapting to them; no labels, any size and mode.

    Writes a CSV with a row an image, in natural order: path, prediction, confidence, and the
    frozen classifier's prediction and confidence beside them. Images that cannot be read are
    listed with the reason.
    """

    bundle: tyro.conf.Positional[Path]
    """A bundle from acclimate align, train or quickstart."""
    images: tyro.conf.Positional[Path]
    """A folder, searched recursively, or a zip."""
    out: Path
    """The CSV file to write."""
    method: str = "cta"
    """A name that acclimate methods lists; default: the bundle's."""
    device: str | None = None
    """cpu or cuda; default: a GPU if there is one."""
    batch: int = 128
    """Images that are adapted to together; larger ones estimate the shift better."""
    settings: Settings = METHODS["cta"].settings
    """How to adapt; starts from the method's own settings."""

    def run(self, console: Console) -> None:
        """Do it."""
        from acclimate.adapt.folder import adapt_folder, write_predictions
        from acclimate.bundle import Bundle
        from acclimate.progress import live

        if self.out.is_dir():
            raise InputError(f"{self.out} is a folder; give the CSV file to write as --out.")
        _check_parent(self.out)
        bundle = Bundle.load(self.bundle)
        with live() as progress:
            answers = list(
                adapt_folder(
                    bundle,
                    self.images,
                    method=self.method,
                    settings=self.settings,
                    batch=self.batch,
                    device=self.device,
                    progress=progress,
                )
            )
        write_predictions(answers, self.out)
        skipped = [answer for answer in answers if answer.skipped]
        for answer in skipped:
            console.print(f"skipped {answer.path}: {answer.skipped}", markup=False)
        changed = sum(answer.prediction != answer.frozen_prediction for answer in answers)
        console.print(
            f"{self.out}: {len(answers) - len(skipped)} answers, {changed} of them changed by "
            f"adapting, {len(skipped)} images skipped",
            markup=False,
        )


@dataclass(frozen=True)
class Info:
    """Say what is in a bundle, after checking that it is undamaged."""

    bundle: tyro.conf.Positional[Path]
    """Its folder."""

    def run(self, console: Console) -> None:
        """Do it."""
        from acclimate.bundle import Bundle, read_record

        record = read_record(self.bundle)
        if record["architecture"] != "custom":
            Bundle.load(self.bundle)
        console.print_json(data=record)


@dataclass(frozen=True)
class Methods:
    """List the methods that an adapter can run, with their settings."""

    def run(self, console: Console) -> None:
        """Do it."""
        table = Table("method", "what it is", "steps", "learning rate", "batch norm", "source")
        for name, row in METHODS.items():
            settings = row.settings
            rate = f"{settings.learning_rate:g}" if settings.steps else "-"
            table.add_row(
                name, row.summary, str(settings.steps), rate, settings.normalisation, row.citation
            )
        console.print(table)


VERBS = {
    "quickstart": Quickstart,
    "train": Train,
    "align": Align,
    "adapt": Adapt,
    "info": Info,
    "methods": Methods,
}


def _check_absent(out: Path) -> None:
    if out.exists():
        raise InputError(f"{out} exists already; choose another --out or remove it first.")
    _check_parent(out)


def _check_parent(out: Path) -> None:
    """Say at once, not after the work, that nothing can be written there."""
    parent = next(parent for parent in out.absolute().parents if parent.exists())
    if not parent.is_dir():
        raise InputError(f"{out} cannot be made: {parent} is no folder; choose another --out.")


def _make_bundle(command: Train | Align, make, console) -> None:
    """Run the stages with checkpoints beside the bundle, save it, remove the checkpoints."""
    from acclimate.progress import live
    from acclimate.source.loop import Run

    out = command.out
    stages = out.with_name(f"{out.name}.stages")
    with live() as progress:
        run = Run(seed=command.seed, folder=stages, progress=progress, device=command.device)
        bundle = make(run)
    bundle.save(out)
    shutil.rmtree(stages, ignore_errors=True)
    console.print(f"{out} is ready: acclimate adapt {out} FOLDER --out predictions.csv")


def _report_skipped(skipped, console) -> None:
    for path, reason in skipped:
        console.print(f"skipped {path}: {reason}", markup=False)


def _read_names(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        names = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text ({error}).") from error
    return [name.strip() for name in names if name.strip()]
