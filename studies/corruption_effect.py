r"""Accuracy of a frozen classifier under our corruptions and those of imagecorruptions-imaug.

    python studies/corruption_effect.py --data cifar10.zip \
        --bundle runs/cifar10/study/bundle --out runs/corruption_effect

Test images are enlarged to 224 pixels, corrupted by both with ImageNet's constants, and downsampled
to the input size of the bundle's classifier. Downsampling averages out noise. ``--size 64`` reduces
this effect; our corruptions then take ImageNet's constants unscaled, as the package does. Both draw
their own random numbers, so that equal corruptions differ by chance; the interval over images
quantifies this. An interrupted run can be resumed.
"""

import csv
import io
import json
import math
import os
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from imagecorruptions import corrupt as package_corrupt
from torch import Tensor

from acclimate.bundle import Bundle, read_record
from acclimate.commands.script import start
from acclimate.data import LabelledImages, corrupt, load, subset
from acclimate.data.classes import match_classes
from acclimate.data.corruptions import CONSTANTS, CORRUPTIONS
from acclimate.data.corruptions.pixels import Draws
from acclimate.runtime import machine
from acclimate.runtime.memory import keep_freed_memory
from acclimate.runtime.progress import live
from acclimate.storage import atomic

TARGET = 1.5
"""Largest acceptable difference, in percentage points."""
SYNTHETIC = " (synthetic)"
ROWS = [*CORRUPTIONS, f"frost{SYNTHETIC}"]
"""Frost occurs twice: with the package's textures, and with ours, used if the package is absent."""
PACKAGE_DIFFERS = {"elastic_transform": "the package's is another corruption"}


@dataclass
class Options:
    """Measure every corruption at every severity."""

    bundle: Path
    """Bundle whose frozen classifier is measured."""
    data: str
    """Labelled data set, as for acclimate train."""
    out: Path
    """Folder for single measurements and the table."""
    root: Path | None = None
    size: int = 224
    """Side to which images are enlarged, in pixels."""
    images: int = 1000
    """Number of test images."""
    corruptions: tuple[str, ...] = tuple(ROWS)
    """Rows of the table; the files are written only if all rows are measured."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    seed: int = 0


@torch.inference_mode()
def correct(bundle: Bundle, images: Tensor, labels: Tensor) -> list[bool]:
    """Whether the classifier's prediction for each image is correct."""
    predictions = bundle.classifier(bundle.preprocessing(images)).argmax(1)
    return (predictions == labels).tolist()


def by_ours(images: Tensor, name: str, severity: int, seed: int, first: int) -> Tensor:
    """Our corruption of each image, with ImageNet's constants."""
    if images.shape[-1] == 224:
        return corrupt(images, name, severity, seed=seed, first_index=first)
    draws = Draws((seed, name, severity), torch.arange(first, first + len(images)))
    return CORRUPTIONS[name](images, CONSTANTS[name][224][severity - 1], 1.0, draws)


def by_package(images: Tensor, name: str, severity: int, seed: int) -> Tensor:
    """The package's corruption of each image."""
    np.random.seed(seed)
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    corrupted = [package_corrupt(each, corruption_name=name, severity=severity) for each in pixels]
    return torch.from_numpy(np.stack(corrupted)).permute(0, 3, 1, 2)


def measure(bundle: Bundle, data: LabelledImages, row: str, severity: int, seed: int) -> dict:
    """Whether the prediction for each image is correct, under our and the package's corruption."""
    name = row.removesuffix(SYNTHETIC)
    os.environ["ACCLIMATE_FROST"] = "synthetic" if row.endswith(SYNTHETIC) else ""
    ours, package = [], []
    for first in range(0, len(data.images), 100):
        images, labels = data.images[first : first + 100], data.labels[first : first + 100]
        corrupted = by_ours(images, name, severity, seed, first)
        ours += correct(bundle, corrupted, labels)
        corrupted = by_package(images, name, severity, seed=seed + first)
        package += correct(bundle, corrupted, labels)
    return {"corruption": row, "severity": severity, "ours": ours, "package": package}


def main(options: Options) -> None:
    """Measure what is missing, then write the table."""
    keep_freed_memory()
    bundle = Bundle.load(options.bundle)
    bundle.classifier.eval()
    weights = read_record(options.bundle)["weights_sha256"][:12]
    data = load(options.data, "test", root=options.root, size=options.size)
    data = subset(data, options.images)
    match = match_classes(bundle.classes, data.classes, whose="the bundle", data=data.name)
    data = replace(data, labels=match.outputs[data.labels])
    clean = []
    for first in range(0, len(data.images), 100):
        part = slice(first, first + 100)
        clean += correct(bundle, data.images[part], data.labels[part])
    cells = []
    suffix = f"{options.size}-{weights}-{len(data.images)}-{options.seed}"
    with live() as progress:
        tasks = list(product(options.corruptions, options.severities))
        for index, (row, severity) in enumerate(tasks):
            progress("measure", index, len(tasks), f"{row} {severity}")
            path = options.out / "cells" / f"{row}-{severity}-{suffix}.json"
            if not path.exists():
                cell = measure(bundle, data, row, severity, options.seed)
                atomic.write_text(path, json.dumps(cell))
            cells.append(json.loads(path.read_text()))
    write(cells, float(np.mean(clean)), options)


def summary(row: str, cells: list[dict]) -> dict:
    """Mean accuracies under one corruption over severities, in percent, and paired difference."""
    mine = [cell for cell in cells if cell["corruption"] == row]
    ours, package = (np.array([cell[key] for cell in mine]) * 100.0 for key in ("ours", "package"))
    difference = (ours - package).mean(0)  # [images], a mean over severities
    return {
        "corruption": row,
        "ours": ours.mean(),
        "package": package.mean(),
        "difference": difference.mean(),
        "half_interval": 1.96 * difference.std(ddof=1) / math.sqrt(len(difference)),
        **{
            f"difference_at_{cell['severity']}": (one - other).mean()
            for cell, one, other in zip(mine, ours, package)
        },
        "remark": PACKAGE_DIFFERS.get(row, ""),
    }


def write(cells: list[dict], clean: float, options: Options) -> None:
    """Print the table, and write it as CSV with a JSON record of settings and machine."""
    rows = [summary(row, cells) for row in options.corruptions]
    show(rows, clean, options)
    if len(rows) < len(ROWS):
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=[*rows[0]], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: v if isinstance(v, str) else round(v, 3) for k, v in row.items()})
    out = options.out / f"corruption_effect_{options.size}.csv"
    atomic.write_text(out, text.getvalue())
    record = {"clean_accuracy": clean, "images": options.images, "seed": options.seed}
    record |= {"size": options.size}
    record |= {"data": Path(options.data).stem, "environment": machine.describe()}
    atomic.write_text(out.with_suffix(".json"), json.dumps(record, indent=1) + "\n")


def show(rows: list[dict], clean: float, options: Options) -> None:
    """Print the table."""
    print(f"clean accuracy {clean:.1%}; means over severities {options.severities}, in percent")
    print(f"{'corruption':20} {'ours':>6} {'package':>8} {'difference':>11}")
    for row in rows:
        verdict = "" if abs(row["difference"]) <= TARGET else "  beyond the target"
        print(
            f"{row['corruption']:20} {row['ours']:6.1f} {row['package']:8.1f} "
            f"{row['difference']:+6.2f} ± {row['half_interval']:.2f}{verdict}  {row['remark']}"
        )


if __name__ == "__main__":
    start(main, Options)
