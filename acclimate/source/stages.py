"""The stages that recipes name: each trains some parts of what is being made."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
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

OBSERVED = 10_000
"""Source images that an objective sees in the end, evenly spaced."""


@dataclass
class Work:
    """What is being made, and of what."""

    classifier: Classifier
    source: SourceImages
    settings: SourceSettings
    run: Run
    construct: Callable[[Classifier], Objective] | None = None
    """Makes the objective of the model that it is trained with, or for."""
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

    @cached_property
    def objective(self) -> Objective | None:
        """Made of the model as it is when a stage first asks: a teacher is trained by then."""
        return self.construct(self.model) if self.construct else None

    def new_twin(self) -> Classifier:
        """What the twin begins as."""
        start = self.start or self.classifier.encoder
        return projected(Classifier(start, self.classifier.head))


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
    # What was made with target images is made for them.
    met = work.source if work.target is None else work.target
    recalibrate(work.classifier, met, work.run.precision)


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
    work.twin = work.new_twin()
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
    images = work.source.sample(OBSERVED).images
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
}
"""Every stage by its name."""
