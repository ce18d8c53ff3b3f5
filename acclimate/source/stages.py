"""The stages that recipes name: each trains some parts of what is being made."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from acclimate.backbones import Classifier, projected
from acclimate.objectives import Objective
from acclimate.source.calibration import recalibrate
from acclimate.source.fit import fit
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run
from acclimate.source.presets import SourceSettings
from acclimate.source.twin import align_twin, check_twin


@dataclass
class Work:
    """What is being made, and of what."""

    classifier: Classifier
    source: SourceImages
    settings: SourceSettings
    run: Run
    objective: Objective | None = None
    options: dict[str, Any] = field(default_factory=dict)
    """What the objective was constructed with."""
    start: nn.Module | None = None
    """An encoder that a twin begins from; None is a copy of f."""
    target: SourceImages | None = None
    """Unlabelled images of the target domain, which only an oracle sees."""
    twin: Classifier | None = None

    @property
    def model(self) -> Classifier:
        """What will answer."""
        return self.twin or self.classifier


def new_twin(work: Work) -> Classifier:
    """h'∘(π∘g) as it begins: g is the encoder to start from, or a copy of f as it is now."""
    begin = work.classifier
    if work.start is not None:
        begin = Classifier(work.start, work.classifier.head)
    return projected(begin, work.classifier.head)


def supervised(work: Work) -> None:
    """h∘f by cross entropy."""
    fit(
        "supervised",
        work.classifier,
        work.source,
        work.settings.supervised,
        work.run,
        moves=("encoder", "head"),
        supervision=work.settings.supervision,
    )


def joint(work: Work) -> None:
    """Everything by cross entropy and the objective together (TTT, Eq. 1)."""
    fit(
        "joint",
        work.classifier,
        work.source,
        work.settings.joint,
        work.run,
        moves=("encoder", "head", "objective"),
        supervision=work.settings.supervision,
        objective=work.objective,
        weight=work.settings.weight,
        target=work.target,
    )
    recalibrate(work.classifier, work.source, work.run.precision)


def pretrain(work: Work) -> None:
    """The encoder by the objective alone."""
    fit(
        "pretrain",
        work.classifier,
        work.source,
        work.settings.pretrain,
        work.run,
        moves=("encoder", "objective"),
        objective=work.objective,
    )
    recalibrate(work.classifier, work.source, work.run.precision)


def probe(work: Work) -> None:
    """The head by cross entropy, on the frozen encoder."""
    fit(
        "probe",
        work.classifier,
        work.source,
        work.settings.probe,
        work.run,
        moves=("head",),
        supervision=work.settings.supervision,
    )


def parts(work: Work) -> None:
    """The objective's own parts, on the frozen model."""
    fit(
        "parts",
        work.model,
        work.source,
        work.settings.parts,
        work.run,
        moves=("objective",),
        objective=work.objective,
    )


def contrastive(work: Work) -> None:
    """The twin π∘g by the objective (CTA, Eq. 1)."""
    work.twin = new_twin(work)
    check_twin(work.twin, work.classifier, work.source, work.settings)
    fit(
        "contrastive",
        work.twin,
        work.source,
        work.settings.contrastive,
        work.run,
        moves=("encoder", "objective"),
        objective=work.objective,
    )


def align(work: Work) -> None:
    """The twin to the frozen classifier (CTA, Eq. 4)."""
    assert work.twin is not None
    copied = work.start is None
    align_twin(work.twin, work.classifier, work.source, work.settings, work.run, copied=copied)


@torch.no_grad()
def observe(work: Work) -> None:
    """Let the objective keep what deployment needs to know of the source."""
    if work.objective is None:
        return
    device = next(work.model.parameters()).device
    images = work.source.sample(10_000).images
    work.objective.to(device)
    work.objective.observe(
        work.model, (work.source.preprocessing(part.to(device)) for part in images.split(256))
    )


STAGES: dict[str, Callable[[Work], None]] = {
    "supervised": supervised,
    "joint": joint,
    "pretrain": pretrain,
    "probe": probe,
    "parts": parts,
    "contrastive": contrastive,
    "align": align,
    "observe": observe,
}
"""Every stage by its name."""
