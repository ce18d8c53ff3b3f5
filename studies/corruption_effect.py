r"""What a frozen classifier loses on our corruptions and on those of imagecorruptions-imaug.

    python studies/corruption_effect.py --data cifar10.zip \
        --bundle runs/cifar10/study/bundle --out runs/corruption_effect

Test images are enlarged to 224 pixels, corrupted by both with ImageNet's constants, and reduced
again to what the bundle's classifier takes. That averages noise away; with ``--size 64`` it does
not, and ours is called with ImageNet's constants as they are, as the package does it. Both
draw their own random numbers, so equal corruptions differ by chance; the interval, over images,
says by how much. Killed, it resumes.
"""

import csv
import io
import json
import math
import os
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from imagecorruptions import corrupt as package_corrupt
from torch import Tensor

from acclimate.bundle import Bundle, read_record
from acclimate.commands.script import start
from acclimate.data import LabelledImages, corrupt, load, subset
from acclimate.data.corruptions import CONSTANTS, CORRUPTIONS
from acclimate.data.corruptions.pixels import Draws
from acclimate.runtime import machine
from acclimate.runtime.memory import keep_freed_memory
from acclimate.runtime.progress import live
from acclimate.storage import atomic

TARGET = 1.5
"""Points."""
SYNTHETIC = " (synthetic)"
ROWS = [*CORRUPTIONS, f"frost{SYNTHETIC}"]
"""Frost twice: with the package's pictures, and with those that are used where it is absent."""
PACKAGE_DIFFERS = {"elastic_transform": "the package's is another corruption"}


@dataclass
class Options:
    """Measure every corruption at every severity."""

    bundle: Path
    """A bundle, of which the frozen classifier is used."""
    data: str
    """Labelled images, as acclimate train takes them."""
    out: Path
    """Folder for cells and the table."""
    root: Path | None = None
    size: int = 224
    """Side to which images are enlarged, in pixels."""
    images: int = 1000
    """Test images."""
    corruptions: tuple[str, ...] = tuple(ROWS)
    """Rows; the files are written only if it is all of them."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    seed: int = 0


@torch.inference_mode()
def correct(bundle: Bundle, images: Tensor, labels: Tensor) -> list[bool]:
    """Whether the classifier answers each image right."""
    answers = bundle.classifier(bundle.preprocessing(images)).argmax(1)
    return (answers == labels).tolist()


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
    done = [package_corrupt(each, corruption_name=name, severity=severity) for each in pixels]
    return torch.from_numpy(np.stack(done)).permute(0, 3, 1, 2)


def measure(bundle: Bundle, data: LabelledImages, row: str, severity: int, seed: int) -> dict:
    """Whether each image is answered right under ours and under theirs."""
    name = row.removesuffix(SYNTHETIC)
    os.environ["ACCLIMATE_FROST"] = "synthetic" if row.endswith(SYNTHETIC) else ""
    ours, package = [], []
    for first in range(0, len(data.images), 100):
        images, labels = data.images[first : first + 100], data.labels[first : first + 100]
        made = by_ours(images, name, severity, seed, first)
        ours += correct(bundle, made, labels)
        made = by_package(images, name, severity, seed=seed + first)
        package += correct(bundle, made, labels)
    return {"corruption": row, "severity": severity, "ours": ours, "package": package}


def main(options: Options) -> None:
    """Fill the cells that are missing, then write the table."""
    keep_freed_memory()
    bundle = Bundle.load(options.bundle)
    bundle.classifier.eval()
    weights = read_record(options.bundle)["weights_sha256"][:12]
    data = load(options.data, "test", root=options.root, size=options.size)
    data = subset(data, options.images)
    clean = []
    for first in range(0, len(data.images), 100):
        part = slice(first, first + 100)
        clean += correct(bundle, data.images[part], data.labels[part])
    cells = []
    of = f"{options.size}-{weights}-{len(data.images)}-{options.seed}"
    with live() as progress:
        todo = list(product(options.corruptions, options.severities))
        for number, (row, severity) in enumerate(todo):
            progress("measure", number, len(todo), f"{row} {severity}")
            path = options.out / "cells" / f"{row}-{severity}-{of}.json"
            if not path.exists():
                cell = measure(bundle, data, row, severity, options.seed)
                atomic.write_text(path, json.dumps(cell))
            cells.append(json.loads(path.read_text()))
    write(cells, float(np.mean(clean)), options)


def summary(row: str, cells: list[dict]) -> dict:
    """Accuracies of one corruption over all severities, in percent, and the paired difference."""
    mine = [cell for cell in cells if cell["corruption"] == row]
    ours, package = (np.array([cell[key] for cell in mine]) * 100.0 for key in ("ours", "package"))
    difference = (ours - package).mean(0)  # of each image, over severities
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
    """The table on the screen, and as CSV, with where it was measured."""
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
