"""Train parts of a model with cross entropy, a self-supervised objective, or both."""

import re
from collections.abc import Collection
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from acclimate.backbones import Classifier
from acclimate.objectives import Objective
from acclimate.randomness import Key, key
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run, Training, train
from acclimate.source.presets import Supervision
from acclimate.views import cutout, shifted_crop

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # in a repr; differs from process to process
Part = Literal["encoder", "head", "objective"]


def fit(
    name: str,
    model: Classifier,
    source: SourceImages,
    settings: Training,
    run: Run,
    *,
    moves: Collection[Part],
    supervision: Supervision | None = None,
    objective: Objective | None = None,
    weight: float = 1.0,
    target: SourceImages | None = None,
) -> None:
    """Train the chosen parts of a model in place; the others are frozen, in evaluation mode.

    Args:
        name: Name of the stage and of its checkpoint.
        model: h∘f. On return it and the objective are frozen and in evaluation mode.
        source: Source images; with labels if ``supervision`` is given.
        settings: Number of epochs, and optimiser.
        run: Seed, checkpoints, device, progress.
        moves: The parts that are trained.
        supervision: Augmentation of the images for cross entropy; None trains without it.
        objective: The self-supervised objective; None trains without one.
        weight: λ, the weight of the objective's loss beside the cross entropy.
        target: Target images, of which each batch of the objective has as many as source images
            (UDA-SS); None for none.

    Raises:
        InputError: labels are needed and missing; or as `acclimate.source.loop.train`.
    """
    if supervision:
        source.labels_for(f"the stage {name}")
    both = _ClassifierAndObjective(model, objective, moves)

    def loss(module: nn.Module, index: Tensor, epoch_key: Key) -> Tensor:
        labelled, drawn = None, ()
        if supervision:
            labelled = _augmented(source, index, supervision, epoch_key)
        if objective is not None:
            drawn = _drawn(objective, source, target, index, epoch_key)
        votes, unsupervised = module(labelled, drawn)
        if supervision is None:
            return unsupervised
        labels = source.label_rows(index)
        smoothing = supervision.label_smoothing
        supervised = [cross_entropy(v.float(), labels, label_smoothing=smoothing) for v in votes]
        return sum(supervised) + weight * unsupervised

    identity = [
        source.identity(labelled=supervision is not None),
        target.identity() if target else None,
        vars(supervision) if supervision else None,
        _options(objective),
        sorted(moves),
        weight,
    ]
    count, replayable = len(source.images), objective is None or objective.replayable
    train(name, both, loss, settings, run, count=count, identity=identity, replayable=replayable)
    both.requires_grad_(False).eval()


class _ClassifierAndObjective(nn.Module):
    """Classifier and objective as one module, as the training loop needs for several processes."""

    def __init__(self, model: Classifier, objective: Objective | None, moves: Collection[Part]):
        super().__init__()
        self.model = model
        self.objective = objective
        self._moves = moves
        for name, part in self._parts().items():
            part.requires_grad_(name in moves)

    def _parts(self) -> dict[str, nn.Module]:
        parts: dict[str, nn.Module] = {"encoder": self.model.encoder, "head": self.model.head}
        if self.objective is not None:
            parts["objective"] = self.objective
        return parts

    def train(self, mode: bool = True) -> "_ClassifierAndObjective":
        """Set the mode of the trained parts; the others stay in evaluation mode."""
        super().train(mode)
        for name, part in self._parts().items():
            part.train(mode and name in self._moves)
        return self

    def forward(
        self, labelled: Tensor | None, drawn: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, ...], Any]:
        votes = () if labelled is None else self.model.votes(labelled)
        if self.objective is None:
            return votes, 0.0
        return votes, self.objective.source_loss(self.model, *drawn)


def _options(objective: Objective | None) -> dict[str, str]:
    """Options of an objective and of those nested in it, for a checkpoint's stamp."""
    return {
        f"{prefix}.{type(module).__name__}.{name}": _ADDRESS.sub("", repr(value))
        for prefix, module in (objective.named_modules() if objective is not None else ())
        if isinstance(module, Objective)
        for name, value in vars(module).items()
        if name[0] != "_" and name != "training"
    }


def _augmented(
    source: SourceImages, index: Tensor, supervision: Supervision, epoch_key: Key
) -> Tensor:
    """A batch of augmented, normalised images for the cross entropy."""
    crop_key = key(epoch_key, "shifted crop")
    batch = shifted_crop(source.rows(index), supervision.crop_padding, key=crop_key, index=index)
    if supervision.cutout:
        batch = cutout(batch, supervision.cutout, key=key(epoch_key, "cutout"), index=index)
    return source.preprocessing(batch)


def _drawn(
    objective: Objective,
    source: SourceImages,
    target: SourceImages | None,
    index: Tensor,
    epoch_key: Key,
) -> tuple[Tensor, ...]:
    """Normalised views, and the further arguments of the objective's `source_loss`."""
    images, index = _unlabelled(source, target, index, epoch_key)
    views, *rest = objective.source_draw(images, key(epoch_key, "views"), index)
    return source.preprocessing.normalize(views), *rest


def _unlabelled(
    source: SourceImages, target: SourceImages | None, index: Tensor, epoch_key: Key
) -> tuple[Tensor, Tensor]:
    """Source images in 0..1, followed by as many target images, and the indices of all."""
    images = source.preprocessing.unit(source.rows(index))
    if target is None:
        return images, index
    # The offset changes with the epoch, so that a target set larger than the source is used up.
    chosen = (index + epoch_key % len(target.images)) % len(target.images)
    others = source.preprocessing.unit(target.rows(chosen))
    every = torch.cat([index, len(source.images) + chosen])
    return torch.cat([images, others]), every
