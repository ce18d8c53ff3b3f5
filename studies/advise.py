"""What advice picks in five cases, and what a table with labels would have picked.

    python studies/advise.py --data cifar10.zip --public runs/ours/resnet20 \
        --group-norm runs/nobn/resnet-gn --quickstart quickstart/bundle --out runs/advise \
        --results results/advise

The target images are of the reported test set, and no rule of the advice or the guard was chosen
on them. The table has the methods that advice chose among, on the same images in the same order,
with labels. An interrupted run resumes: each case is one file.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from estimates import calibrated, source_images, unseen
from torch import Tensor

from acclimate.advise import Advice, advise
from acclimate.advise.candidates import Candidate
from acclimate.advise.labelled import Labelled, by_labels
from acclimate.advise.streams import Order
from acclimate.backbones.code import trusted_code
from acclimate.commands.script import recorded_options, start, write_table
from acclimate.data import LabelledImages, corrupt, load, subset
from acclimate.runtime import machine
from acclimate.runtime.progress import live
from acclimate.source.loop import Run
from acclimate.storage import atomic

NOISE = ("gaussian_noise", 5)


@dataclass(frozen=True)
class Arguments:
    """Bundles, data, and how much is measured."""

    data: str
    """CIFAR-10 as train/CLASS/IMAGE and test/CLASS/IMAGE: a folder or a zip."""
    public: Path
    """Bundle of a public ResNet-20 with batch norm."""
    group_norm: Path
    """Bundle of a ResNet with group norm, trained on this data set."""
    quickstart: Path
    """Bundle of acclimate quickstart: a ResNet-8 with batch norm, for Fashion-MNIST."""
    out: Path
    """Folder for what is measured."""
    results: Path
    """Folder for the tables."""
    images: int = 500
    """Target images of each case."""
    minutes: float = 5.0
    """About how long each advice may take."""
    cases: tuple[str, ...] = ()
    """Names of cases; all without it."""


@dataclass(frozen=True)
class Case:
    """A deployment."""

    bundle: str
    """The option that names its bundle."""
    shift: tuple[str, int] | None
    """Corruption and severity of the target images."""
    batch: int = 128
    """Images that come together."""
    order: Order = "shuffled"
    """How they come."""
    by_class: bool = False
    """Whether they come sorted by class."""


CASES = {
    "noise": Case("public", NOISE),
    "noise, single images": Case("public", NOISE, batch=1),
    "group norm, noise": Case("group_norm", NOISE),
    "clean": Case("quickstart", None),
    "noise, by class": Case("public", NOISE, order="arrival", by_class=True),
    "public network, clean": Case("public", None),
}
"""The five cases, and one whose images are clean, but not as sharp as those of the training."""


def main(arguments: Arguments) -> None:
    """Advise in the cases that are not done, then write the tables."""
    os.nice(10)
    torch.set_num_threads(1)
    summary, methods = [], []
    for name, case in CASES.items():
        if arguments.cases and name not in arguments.cases:
            continue
        path = arguments.out / f"{name.replace(', ', '-').replace(' ', '-')}.json"
        if not path.exists():
            found = json.dumps(_measured(arguments, name, case), indent=2)
            atomic.write_text(path, f"{found}\n")
        found = json.loads(path.read_text(encoding="utf-8"))
        summary.append(found["summary"])
        methods += found["methods"]
        print(found["summary"], flush=True)
    write_table(arguments.results / "summary.csv", summary)
    write_table(arguments.results / "methods.csv", methods)
    record = {"options": recorded_options(arguments), "machine": machine.describe()}
    atomic.write_text(arguments.results / "settings.json", json.dumps(record, indent=2) + "\n")


def _measured(arguments: Arguments, name: str, case: Case) -> dict[str, object]:
    """Advice in one case, and what labels say of it."""
    with trusted_code():  # of this repository: a public network's own
        kept = arguments.out / f"{case.bundle}.bundle"
        source = _source(arguments, case)
        bundle = calibrated(getattr(arguments, case.bundle), kept, source)
    target = _target(arguments, case)
    said: list[str] = []
    with live() as progress:
        advice = advise(
            bundle,
            source,
            target.images,
            batches=(case.batch,),
            order=case.order,
            minutes=arguments.minutes,
            run=Run(progress=progress, device="cpu"),
            say=said.append,
        )
    labelled = by_labels(advice, target.labels)
    rows = [_row(name, trial.candidate, advice, labelled) for trial in advice.trials]
    return {"summary": _summary(name, case, advice, labelled, said[0]), "methods": rows}


def _source(arguments: Arguments, case: Case) -> Tensor:
    """Training images of the case's network; of CIFAR-10 those that no twin was aligned with."""
    if case.bundle == "quickstart":
        return load("fashion-mnist-mini", "train").images
    return source_images(arguments.data)


def _target(arguments: Arguments, case: Case) -> LabelledImages:
    fashion = case.bundle == "quickstart"
    test = load("fashion-mnist-mini", "test") if fashion else unseen(arguments.data)
    data = subset(test, arguments.images)
    shown: Callable[[Tensor], Tensor] = (
        partial(corrupt, name=case.shift[0], severity=case.shift[1]) if case.shift else torch.clone
    )
    order = data.labels.argsort(stable=True) if case.by_class else torch.arange(len(data.labels))
    return LabelledImages(shown(data.images[order]), data.labels[order], data.classes, data.name)


def _summary(
    name: str, case: Case, advice: Advice, labelled: Labelled, told: str
) -> dict[str, object]:
    """What was advised and what a table would have picked; shares in percent."""
    chosen, best = advice.choice.chosen, labelled.best
    reached = 0.0 if chosen is None else labelled.gains[chosen].value
    possible = 0.0 if best is None else labelled.gains[best].value
    predicted = None if chosen is None else advice.choice.gains[chosen]
    target = advice.target
    return {
        "case": name,
        "network": case.bundle,
        "frozen": _percent(labelled.frozen),
        "frozen_estimated": "" if target is None else _percent(target.estimated),
        "advised": _name(chosen),
        "predicted": "" if predicted is None else str(predicted),
        "gain": _percent(reached),
        "table": _name(best),
        "table_gain": _percent(possible),
        "loss": _percent(possible - reached),
        "source_images": advice.frozen.shape[1],
        "target_images": 0 if target is None else len(target.images),
        "by_class": advice.by_class,
        "told": told.split(":")[0].removeprefix("this takes about "),
        "seconds": round(advice.seconds),
    }


def _row(name: str, candidate: Candidate, advice: Advice, labelled: Labelled) -> dict[str, object]:
    """What was measured of a method, without and with labels."""
    trial = next(trial for trial in advice.trials if trial.candidate == candidate)
    predicted, found = advice.choice.gains[candidate], labelled.gains[candidate]
    return {
        "case": name,
        "method": str(candidate.variant),
        "predicted": str(predicted),
        "with_labels": str(found),
        "passes": round(trial.cost.forward_equivalents, 2),
        "milliseconds": round(trial.milliseconds, 2),
        "refused": advice.refused.get(candidate, ""),
    }


def _name(candidate: Candidate | None) -> str:
    return "source" if candidate is None else str(candidate.variant)


def _percent(share: float) -> float:
    return round(100 * share, 2)


if __name__ == "__main__":
    start(main, Arguments)
