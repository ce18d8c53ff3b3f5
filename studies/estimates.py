"""How well a guard estimates accuracy without labels, beside what others propose.

    python studies/estimates.py --data cifar10.zip --bundle runs/ours/resnet20 \
        --out runs/estimates --results results/estimates

The streams are the 15 corruptions at all severities, each of 500 test images that no rule of the
guard was chosen on, each begun anew. The guard is calibrated on training images under four other
corruptions. Average thresholded confidence (Garg et al. 2022) and the difference of confidences
(Guillory et al. 2021) get more than that: labelled clean test images, others than those measured.
An interrupted run resumes: the logits of each stream are one file.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from acclimate.adapt import Adapter
from acclimate.backbones.code import trusted_code
from acclimate.bundle import Bundle
from acclimate.commands.script import recorded_options, start, write_table
from acclimate.data import LabelledImages, corrupt, hold_out, load, subset
from acclimate.data.corruptions import PUBLISHED
from acclimate.guard import Rules, measure_guard
from acclimate.guard.calibration import Calibration
from acclimate.guard.decide import GuardState, judge
from acclimate.guard.estimate import Estimate
from acclimate.guard.looks import looks
from acclimate.methods import method
from acclimate.runtime import machine
from acclimate.storage import atomic

EVERY = 5
"""One of so many training images is a source image."""
FEW = 32
"""Images of a short stream."""
MODELS = ("frozen", "adapted")
SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Arguments:
    """A bundle, data, and what is measured."""

    data: str
    """CIFAR-10 as train/CLASS/IMAGE and test/CLASS/IMAGE: a folder or a zip."""
    bundle: Path
    """Folder of the bundle."""
    out: Path
    """Folder for the logits."""
    results: Path
    """Folder for the tables."""
    method: str = "acclimate"
    """Method of the adapted model."""
    images: int = 500
    """Test images of each stream."""
    batch: int = 128
    """Images that come together."""


@dataclass(frozen=True)
class Answers:
    """Both models' logits for a stream, and which class each image has."""

    frozen: Float[Tensor, "n classes"]
    adapted: Float[Tensor, "n classes"]
    looks: Float[Tensor, "n 5"]
    labels: Tensor

    def right(self, model: str) -> Bool[Tensor, " n"]:
        """Whether a model's answers are right."""
        return getattr(self, model).argmax(1) == self.labels


def main(arguments: Arguments) -> None:
    """Answer for what is not answered for yet, then estimate."""
    os.nice(19)
    torch.set_num_threads(1)
    with trusted_code():  # of this repository: a public network's own
        source = source_images(arguments.data)
        bundle = calibrated(arguments.bundle, arguments.out / "bundle", source)
    measured, labelled = _images(arguments)
    clean = _answers(arguments, bundle, labelled, "labelled", None)
    streams = {("none", 0): _answers(arguments, bundle, measured, "none-0", None)}
    for name in PUBLISHED:
        for severity in SEVERITIES:
            key = f"{name}-{severity}"
            streams[name, severity] = _answers(arguments, bundle, measured, key, (name, severity))
            print(key, flush=True)
    calibration = Calibration.of(bundle.statistics, method(arguments.method).model)
    rows = [
        {"corruption": name, "severity": severity} | row
        for (name, severity), answers in streams.items()
        for row in of_stream(answers, clean, calibration)
    ]
    write_table(arguments.results / "sets.csv", rows)
    table = summary([row for row in rows if row["corruption"] != "none"])
    write_table(arguments.results / "summary.csv", table)
    for row in table:
        print(row)
    record = {"options": recorded_options(arguments), "machine": machine.describe()}
    atomic.write_text(arguments.results / "settings.json", json.dumps(record, indent=2) + "\n")


def of_stream(
    answers: Answers, clean: Answers, calibration: Calibration
) -> Iterator[dict[str, object]]:
    """What is estimated of each model on one stream, and what is so.

    Args:
        answers: On the stream.
        clean: On labelled clean images.
        calibration: Of the guard.
    """
    whole = _estimate(answers, calibration)
    parts = [_part(answers, place) for place in range(0, len(answers.labels) - FEW + 1, FEW)]
    short = [(part, _estimate(part, calibration)) for part in parts]
    agreement = float((answers.frozen.argmax(1) == answers.adapted.argmax(1)).float().mean())
    for model in MODELS:
        own = getattr(whole, model)
        errors = [abs(getattr(e, model).value - _accuracy(part, model)) for part, e in short]
        held = [_within(getattr(e, model), _accuracy(part, model)) for part, e in short]
        widths = [getattr(e, model).high - getattr(e, model).low for _, e in short]
        yield {
            "model": model,
            "accuracy": _accuracy(answers, model),
            "guard": own.value,
            "low": own.low,
            "high": own.high,
            "thresholded_confidence": _thresholded(answers, clean, model),
            "difference_of_confidences": _difference(answers, clean, model),
            "agreement": agreement,
            "few_error": float(np.mean(errors)),
            "few_held": float(np.mean(held)),
            "few_width": float(np.mean(widths)),
        }


def summary(rows: Sequence[dict]) -> list[dict[str, object]]:
    """Mean absolute errors of each way to estimate, and how often intervals held, in percent."""
    found = []
    for model in MODELS:
        mine = [row for row in rows if row["model"] == model]
        ways = ("guard", "thresholded_confidence", "difference_of_confidences", "agreement")
        errors = {way: np.mean([abs(row[way] - row["accuracy"]) for row in mine]) for way in ways}
        inside = [row["low"] <= row["accuracy"] <= row["high"] for row in mine]
        few = {name: np.mean([row[name] for row in mine]) for name in _FEW}
        found.append(
            {"model": model, "sets": len(mine)}
            | {"accuracy": _percent(np.mean([row["accuracy"] for row in mine]))}
            | {way: _percent(error) for way, error in errors.items()}
            | {"held": _percent(np.mean(inside))}
            | {name: _percent(value) for name, value in few.items()}
        )
    return found


_FEW = ("few_error", "few_held", "few_width")


def _percent(share: float) -> float:
    return round(100 * float(share), 2)


def _estimate(answers: Answers, calibration: Calibration) -> Estimate:
    """The guard's estimate at the end of a stream."""
    state, found = GuardState.new(calibration), None
    every = (answers.frozen, answers.adapted, answers.looks)
    for given in zip(*(each.split(FEW) for each in every)):
        kept = torch.ones(len(given[0]), dtype=torch.bool)
        found = judge(*given, kept, calibration, state, Rules()).estimate
    assert found is not None
    return found


def _thresholded(answers: Answers, clean: Answers, model: str) -> float:
    """Share of images with more confidence than a threshold.

    Of the clean images as many exceed it as are answered rightly.
    """
    sure = getattr(clean, model).softmax(1).amax(1)
    threshold = sure.quantile(1 - clean.right(model).float().mean())
    return float((getattr(answers, model).softmax(1).amax(1) >= threshold).float().mean())


def _difference(answers: Answers, clean: Answers, model: str) -> float:
    """Accuracy on clean images less what the mean confidence has lost since."""
    before, now = (float(getattr(a, model).softmax(1).amax(1).mean()) for a in (clean, answers))
    return _accuracy(clean, model) - (before - now)


def _accuracy(answers: Answers, model: str) -> float:
    return float(answers.right(model).float().mean())


def _within(found, accuracy: float) -> bool:
    return found.low <= accuracy <= found.high


def _part(answers: Answers, place: int) -> Answers:
    tensors = (answers.frozen, answers.adapted, answers.looks, answers.labels)
    return Answers(*(tensor[place : place + FEW] for tensor in tensors))


def calibrated(bundle: Path, kept: Path, source: Tensor) -> Bundle:
    """A bundle with a guard's calibration, which is measured once and kept.

    Args:
        bundle: Folder of the bundle.
        kept: Folder of the bundle with its calibration.
        source: Source images.
    """
    if not kept.exists():
        measure_guard(Bundle.load(bundle), source).save(kept)
    return Bundle.load(kept)


def source_images(data: str) -> Tensor:
    """Training images that no twin was aligned with; a public classifier has seen all."""
    return subset(hold_out(load(data, "train"), EVERY)[1], 1024).images


def unseen(data: str) -> LabelledImages:
    """The test images that no rule was chosen on: guard_streams.py has the others."""
    test = load(data, "test")
    rest = torch.arange(1, len(test.images), 2)
    return LabelledImages(test.images[rest], test.labels[rest], test.classes, test.name)


def _images(arguments: Arguments) -> tuple[LabelledImages, LabelledImages]:
    """The images that are measured, and as many others, labelled: neither chose a rule."""
    spread = subset(unseen(arguments.data), 2 * arguments.images)
    rows = torch.arange(len(spread.images))
    return tuple(
        LabelledImages(spread.images[part], spread.labels[part], spread.classes, spread.name)
        for part in (rows[::2], rows[1::2])
    )


def _answers(
    arguments: Arguments,
    bundle: Bundle,
    data: LabelledImages,
    name: str,
    shift: tuple[str, int] | None,
) -> Answers:
    """Logits of both models for one stream, from its file if there is one."""
    path = arguments.out / f"{name}.npz"
    order = torch.randperm(len(data.images), generator=torch.Generator().manual_seed(0))
    if not path.exists():
        images = data.images[order]
        images = corrupt(images, *shift) if shift else images
        found = {
            model: torch.cat([adapter(part) for part in images.split(arguments.batch)]).numpy()
            for model, adapter in (
                ("frozen", Adapter(bundle, "source", device="cpu")),
                ("adapted", Adapter(bundle, arguments.method, device="cpu")),
            )
        }
        found["looks"] = looks(images).numpy()
        atomic.write_atomically(path, lambda temporary: _write(temporary, found))
    with np.load(path) as known:
        every = (torch.from_numpy(known[name]) for name in (*MODELS, "looks"))
        return Answers(*every, data.labels[order])


def _write(path: Path, values: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(file, **values)


if __name__ == "__main__":
    start(main, Arguments)
