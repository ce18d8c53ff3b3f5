"""The training stages that recipes name."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from acclimate.backbones import Classifier, projected
from acclimate.backbones.batch_norm import Trust
from acclimate.objectives import Objective
from acclimate.source.calibration import recalibrate
from acclimate.source.fit import fit
from acclimate.source.held_out import HeldOut, agreement, enough, hold_out, part_of
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run
from acclimate.source.presets import SourceSettings
from acclimate.source.trust import measure_trust
from acclimate.source.twin import align_twin, check_twin

OBSERVED = 10_000
"""Largest number of source images, evenly spaced, that an objective observes after training."""


@dataclass
class Work:
    """State of a training run that its stages share: models, images, settings."""

    classifier: Classifier
    """The classifier h∘f."""
    source: SourceImages
    """The source images."""
    settings: SourceSettings
    """Settings of all stages."""
    run: Run
    """Seed, checkpoints, device, progress."""
    construct: Callable[[Classifier], Objective] | None = None
    """Function that builds the objective for a model; None where the method has no objective."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options that the objective was built with."""
    start: nn.Module | None = None
    """Encoder that initialises the twin; None for a copy of f."""
    target: SourceImages | None = None
    """Unlabelled images of the target domain, which only an oracle is trained with."""
    twin: Classifier | None = None
    """The twin classifier h'∘(π∘g), once the contrastive stage has built it."""
    kept: float | None = None
    """Share of the alignment that is left in the twin, once there is one."""

    @property
    def model(self) -> Classifier:
        """The model that is deployed: the twin if there is one, otherwise the classifier."""
        return self.twin or self.classifier

    @cached_property
    def parts_of_source(self) -> tuple[SourceImages, SourceImages]:
        """The images that a twin is trained on, and those held out."""
        return part_of(self.source, chooses=self.chooses)

    @property
    def chooses(self) -> bool:
        """Whether the share of the alignment that is kept is chosen by images held out."""
        settings = self.settings
        return settings.interpolation is None and not settings.trainable_classifier

    @property
    def measured_on(self) -> str:
        """What a twin is measured on, in words."""
        held_out = len(self.parts_of_source[0].images) < len(self.source.images)
        return "held-out images" if held_out else "images that the twin is trained on"

    @cached_property
    def held_out(self) -> HeldOut | None:
        """Images with the trained classifier's answers, held out from a twin's training.

        Without a twin they are any source images. Few images, or very many by which nothing is
        chosen, are trained on as well. None if they are too few.
        """
        if self.twin is None:
            count = enough(self.source.images, self.source.preprocessing)
            return hold_out(self.classifier, self.source.sample(count), self.run.precision)
        return hold_out(self.classifier, self.parts_of_source[1], self.run.precision)

    @cached_property
    def trust(self) -> Trust | None:
        """How far the trained classifier's batch statistics are trusted, where it is known."""
        if self.held_out is None:
            return None
        return measure_trust(self.classifier, self.held_out, self.run.progress, "classifier")

    @cached_property
    def objective(self) -> Objective | None:
        """The objective, built at first use, when the teacher that it may copy is trained."""
        return self.construct(self.model) if self.construct else None

    def new_twin(self) -> Classifier:
        """An untrained twin."""
        start = self.start or self.classifier.encoder
        return projected(Classifier(start, self.classifier.head))


def supervised(work: Work) -> None:
    """Train h∘f by cross entropy."""
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
    """Train classifier and objective together, by cross entropy and the objective (TTT, Eq. 1)."""
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
    # An oracle, trained with target images, has their batch-norm statistics too.
    deployed_on = work.source if work.target is None else work.target
    recalibrate(work.classifier, deployed_on, work.run.precision)


def pretrain(work: Work) -> None:
    """Train the encoder by the objective alone."""
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
    """Train the head by cross entropy on the frozen encoder."""
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
    """Train the objective's own layers on the frozen model."""
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
    """Build the twin and train π∘g by the objective (CTA, Eq. 1)."""
    work.twin = work.new_twin()
    images = work.parts_of_source[0]
    check_twin(work.twin, work.classifier, images, work.settings)
    fit(
        "contrastive",
        work.twin,
        images,
        work.settings.contrastive,
        work.run,
        moves=("encoder", "objective"),
        objective=work.objective,
    )


def alignment(work: Work) -> None:
    """Align the twin with the frozen classifier (CTA, Eq. 4)."""
    assert work.twin is not None
    work.kept = align_twin(
        work.twin,
        work.classifier,
        work.parts_of_source[0],
        work.settings,
        work.run,
        copied=work.start is None,
        held=work.held_out if work.chooses else None,
        trust=work.trust if work.chooses else None,
    )


@torch.no_grad()
def observe(work: Work) -> None:
    """Let the objective compute the source statistics that it needs at deployment."""
    if work.objective is None:
        return
    device = next(work.model.parameters()).device
    images = work.source.sample(OBSERVED).images
    work.objective.to(device)
    work.objective.observe(
        work.model,
        (work.source.preprocessing(part.to(device)) for part in images.split(work.source.at_once)),
    )


def measure(work: Work) -> tuple[dict[str, Trust], dict[str, float]]:
    """Measure what the trained models do on source images, a twin on held-out ones, without labels.

    Returns:
        How far each model's batch statistics are trusted; and the agreement with the frozen
        classifier on clean images, see `acclimate.source.held_out.Agreement`, of the frozen
        classifier itself and of each model with that trust.
    """
    held = work.held_out
    if held is None:
        return {}, {}
    trust = {} if work.trust is None else {"classifier": work.trust}
    figures = {"frozen": agreement(work.classifier, held, None)}
    figures["classifier"] = agreement(work.classifier, held, work.trust)
    if work.twin is not None:
        twin = work.trust
        if work.kept:
            twin = measure_trust(work.twin, held, work.run.progress, "twin")
        trust |= {} if twin is None else {"twin": twin}
        figures["twin"] = agreement(work.twin, held, twin)
    found = {
        f"{name}, {kind}": round(getattr(each, kind), 4)
        for name, each in figures.items()
        for kind in ("clean", "shifted")
    }
    return trust, found if work.kept is None else found | {"kept": work.kept}


STAGES: dict[str, Callable[[Work], None]] = {
    "supervised": supervised,
    "joint": joint,
    "pretrain": pretrain,
    "probe": probe,
    "parts": parts,
    "contrastive": contrastive,
    "align": alignment,
}
"""The function that runs each stage, by the stage's name in a recipe."""
