"""What a frozen classifier loses on our corruptions and on those of imagecorruptions-imaug.

    python benchmarks/corruption_effect.py --root data --out runs/corruption_effect

A small ResNet is trained on TinyImageNet. Its validation images, enlarged to 224 pixels, are
corrupted by both with ImageNet's constants, and reduced to 64 pixels again for the classifier. Both
draw their own random numbers, so equal corruptions differ by chance: the interval says by how much.
Killed, it resumes. Images that are both answered right or both wrong tell no difference; the rest
give the standard error of the paired difference.
"""

import csv
import io
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from imagecorruptions import corrupt as package_corrupt
from torch import Tensor

from acclimate import files, machine
from acclimate.backbones import build
from acclimate.data import LabelledImages, corrupt, load, subset
from acclimate.data.corruptions import CORRUPTIONS
from acclimate.memory import keep_freed_memory
from acclimate.preprocessing import Preprocessing
from acclimate.progress import Progress, live
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run, Training
from acclimate.source.supervised import supervised

TARGET = 0.015
PREPROCESSING = Preprocessing(64, (0.480, 0.448, 0.398), (0.277, 0.269, 0.282))
SYNTHETIC = " (synthetic)"
ROWS = [*CORRUPTIONS, f"frost{SYNTHETIC}"]
"""Frost twice: with the package's pictures, and with those that are used where it is absent."""
PACKAGE_DIFFERS = {
    "elastic_transform": "the package's is another corruption",
    "zoom_blur": "the package does not cut out the middle of the enlarged images",
}


@dataclass
class Options:
    """Train once, then measure every corruption at every severity."""

    root: Path
    """Where tiny-imagenet-200 or its zip lies."""
    out: Path
    """Folder for checkpoints, cells and the table."""
    images: int = 2000
    """Validation images."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    epochs: int = 20
    seed: int = 0


def trained(options: Options, progress: Progress) -> torch.nn.Module:
    """The classifier, from its checkpoint if it is done."""
    data = load("tiny-imagenet", "train", root=options.root)
    torch.manual_seed(options.seed)
    classifier = build("acclimate:resnet14-w32", classes=len(data.classes))
    settings = Training(
        epochs=options.epochs,
        optimizer="sgd",
        learning_rate=0.2,
        final_learning_rate=1e-4,
        weight_decay=5e-4,
    )
    source = SourceImages(data.images, PREPROCESSING, data.labels)
    run = Run(seed=options.seed, folder=options.out / "stages", progress=progress, device="cpu")
    supervised(classifier, source, settings, run, padding=8, cutout_size=16)
    return classifier


@torch.inference_mode()
def correct(classifier: torch.nn.Module, images: Tensor, labels: Tensor) -> np.ndarray:
    """Whether each image is answered right."""
    answers = [classifier(PREPROCESSING(part)).argmax(1) for part in images.split(100)]
    return (torch.cat(answers) == labels).numpy()


def by_package(images: Tensor, name: str, severity: int, seed: int) -> Tensor:
    """The package's corruption of each image."""
    np.random.seed(seed)
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    done = [package_corrupt(each, corruption_name=name, severity=severity) for each in pixels]
    return torch.from_numpy(np.stack(done)).permute(0, 3, 1, 2)


def measure(
    classifier: torch.nn.Module, data: LabelledImages, row: str, severity: int, seed: int
) -> dict:
    """Accuracy on ours and on theirs, and the paired difference with its standard error."""
    name = row.removesuffix(SYNTHETIC)
    os.environ["ACCLIMATE_FROST"] = "synthetic" if row.endswith(SYNTHETIC) else ""
    ours, theirs = [], []
    for first in range(0, len(data.images), 100):
        images, labels = data.images[first : first + 100], data.labels[first : first + 100]
        made = corrupt(images, name, severity, seed=seed, first_index=first)
        ours.append(correct(classifier, made, labels))
        made = by_package(images, name, severity, seed=seed + first)
        theirs.append(correct(classifier, made, labels))
    ours, theirs = np.concatenate(ours).astype(float), np.concatenate(theirs).astype(float)
    difference = ours - theirs
    return {
        "corruption": row,
        "severity": severity,
        "images": len(ours),
        "ours": ours.mean(),
        "package": theirs.mean(),
        "difference": difference.mean(),
        "standard_error": difference.std(ddof=1) / math.sqrt(len(difference)),
    }


def main(options: Options) -> None:
    """Fill the cells that are missing, then write the table."""
    keep_freed_memory()
    cells = []
    with live() as progress:
        classifier = trained(options, progress).eval()
        data = load("tiny-imagenet", "test", root=options.root, size=224)
        data = subset(data, options.images)
        clean = correct(classifier, data.images, data.labels).mean()
        todo = [(row, severity) for row in ROWS for severity in options.severities]
        for number, (row, severity) in enumerate(todo):
            progress("measure", number, len(todo), f"{row} {severity}")
            name = f"{row}-{severity}-{options.images}-{options.seed}.json"
            path = options.out / "cells" / name
            if not path.exists():
                cell = measure(classifier, data, row, severity, options.seed)
                files.write_text(path, json.dumps(cell))
            cells.append(json.loads(path.read_text()))
    write(cells, clean, options)


def write(cells: list[dict], clean: float, options: Options) -> None:
    """The table on the screen, and all cells as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=[*cells[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows(cells)
    files.write_text(options.out / "corruption_effect.csv", text.getvalue())
    record = {"clean_accuracy": clean, "environment": machine.describe(), "seed": options.seed}
    files.write_text(options.out / "corruption_effect.json", json.dumps(record, indent=1) + "\n")
    print(f"clean accuracy {clean:.1%}; means over severities {options.severities}, in points")
    print(f"{'corruption':20} {'ours':>6} {'package':>8} {'difference':>11}")
    for row in ROWS:
        mine = [cell for cell in cells if cell["corruption"] == row]
        ours, package, difference = (
            100 * np.mean([cell[key] for cell in mine]) for key in ("ours", "package", "difference")
        )
        error = 100 * math.sqrt(sum(cell["standard_error"] ** 2 for cell in mine)) / len(mine)
        verdict = "" if abs(difference) <= 100 * TARGET else "  beyond the target"
        remark = PACKAGE_DIFFERS.get(row, "")
        print(
            f"{row:20} {ours:6.1f} {package:8.1f} {difference:+6.2f} ± {1.96 * error:.2f}"
            f"{verdict}  {remark}"
        )


if __name__ == "__main__":
    main(tyro.cli(Options))
