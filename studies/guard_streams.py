"""Logits of the frozen classifier and of adapters over streams that harm, for a study of guards.

    python studies/guard_streams.py --data cifar10.zip --bundle runs/ours/resnet20 \
        --out runs/guard --label resnet20

Rules for a guard are then examined on these files, in seconds. Images are the even ones of the
first 5,000 test images to choose with, and the odd ones to check; shifts are those that no table
reports. A public classifier has seen all training images, so these serve as the source images that
a guard is calibrated on. An interrupted run resumes: each stream and method is one file.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from guard_orders import CHECKING, CHOOSING, Batches, source_streams
from torch import Tensor

from acclimate.adapt import Adapter
from acclimate.backbones.code import trusted_code
from acclimate.bundle import Bundle
from acclimate.commands.script import start
from acclimate.data import LabelledImages, hold_out, load, subset
from acclimate.storage import atomic

EVERY = 5
"""One of so many training images is a source image of the guard."""
FIRST_TEST = 5000
"""Test images that rules are chosen and checked on; the others are left for reports."""


@dataclass(frozen=True)
class Arguments:
    """A bundle, data, and what is stored."""

    data: str
    """CIFAR-10 as train/CLASS/IMAGE and test/CLASS/IMAGE: a folder or a zip."""
    bundle: Path
    """Folder of the bundle."""
    out: Path
    """Folder for the logits."""
    label: str
    """Name of the bundle's folder in ``out``."""
    methods: tuple[str, ...] = ("ptbn", "aligned-bn", "acclimate", "tent", "roid")
    """Methods whose answers are stored beside the frozen classifier's."""
    parts: tuple[str, ...] = ("source", "choosing", "checking")
    """Streams of source images, streams to choose rules with, and streams to check them;
    ``estimating`` has each shift and severity."""
    streams: tuple[str, ...] = ()
    """Names of streams; all of a part without it."""
    share: float = 1.0
    """Share of each stream's images, for large networks."""


def main(arguments: Arguments) -> None:
    """Store what is not stored yet."""
    os.nice(5)
    torch.set_num_threads(1)
    with trusted_code():  # of this repository: a public network's own
        bundle = Bundle.load(arguments.bundle)
    for part in arguments.parts:
        made = streams_of(arguments, part, bundle)
        for name, make in made.items():
            if arguments.streams and name not in arguments.streams:
                continue
            folder = arguments.out / arguments.label / part
            missing = [
                m for m in ("source", *arguments.methods) if not _path(folder, name, m).exists()
            ]
            if not missing:
                continue
            batches = make()
            for method in missing:
                store(bundle, method, batches, _path(folder, name, method))
                print(part, name, method, flush=True)


def streams_of(arguments: Arguments, part: str, bundle: Bundle) -> dict[str, Callable[[], Batches]]:
    """The streams of a part, by name: functions that make the batches."""
    if part == "source":
        held = subset(hold_out(load(arguments.data, "train"), EVERY)[1], 1024)
        answers = Adapter(bundle, "source", device="cpu")(held.images).argmax(1)
        return source_streams(held, answers, arguments.share)
    test = subset(load(arguments.data, "test"), None)
    # In the zip, test images are sorted by class: the first half of each class.
    first = _first(test)
    rows = torch.arange(len(first.images))
    rows = rows[rows % 2 == (1 if part == "checking" else 0)]
    data = LabelledImages(first.images[rows], first.labels[rows], first.classes, first.name)
    made = CHOOSING if part == "choosing" else CHECKING
    if part == "estimating":
        made = source_streams(data, torch.zeros(len(data.labels)), arguments.share)
        return {name: make for name, make in made.items() if "sorted" not in name}
    other = load("fashion-mnist-mini", "test" if part == "choosing" else "train")
    return {
        name: (lambda make=make: make(data, other, arguments.share)) for name, make in made.items()
    }


def _first(test: LabelledImages) -> LabelledImages:
    """Every second of the test images: 5,000, the same number of each class."""
    rows = torch.arange(FIRST_TEST) * len(test.images) // FIRST_TEST
    return LabelledImages(test.images[rows], test.labels[rows], test.classes, test.name)


def _path(folder: Path, stream: str, method: str) -> Path:
    return folder / f"{stream}--{method}.npz"


def store(bundle: Bundle, method: str, batches: Batches, path: Path) -> None:
    """Let a method answer for a stream; store logits, labels, sizes of batches and step reports."""
    adapter = Adapter(bundle, method, device="cpu")
    first: list[Tensor] = []
    handle = None
    if method == "source":
        layer = next(m for m in adapter.model.modules() if isinstance(m, torch.nn.Conv2d))
        handle = layer.register_forward_hook(lambda m, i, o: first.append(_moments(o)))
    logits, losses, norms = [], [], []
    for images, *_ in batches:
        logits.append(adapter(images))
        losses.append([float(s.loss.float().mean()) for s in adapter.steps])
        norms.append([float(s.gradient_norm.float().mean()) for s in adapter.steps])
    if handle is not None:
        handle.remove()
    values = {
        "logits": torch.cat(logits).numpy().astype(np.float16),
        "labels": torch.cat([labels for _, labels, _ in batches]).numpy(),
        "sizes": np.array([len(labels) for _, labels, _ in batches]),
        "losses": np.array(losses, np.float32),
        "norms": np.array(norms, np.float32),
    }
    if first:
        values["first"] = torch.cat(first).numpy().astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_atomically(path, lambda temporary: _write(temporary, values))


def _moments(output: Tensor) -> Tensor:
    """Mean and standard deviation of each channel of each image."""
    output = output.detach().float()
    return torch.cat([output.mean((2, 3)), output.std((2, 3))], 1)


def _write(path: Path, values: dict) -> None:
    with path.open("wb") as file:
        np.savez(file, **values)


if __name__ == "__main__":
    start(main, Arguments)
