"""Train parts of a model by cross entropy, by a self-supervised objective, or by both."""

import re
from collections.abc import Collection
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from acclimate.backbones import Classifier
from acclimate.objectives import Objective
from acclimate.randomness import key
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run, Training, train
from acclimate.source.presets import Supervision
from acclimate.views import cutout, shifted_crop

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of a function, say: another in each process
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
    """Train the parts that move, in place; the others stay in evaluation mode.

    Args:
        name: The stage's name, and its checkpoint's.
        model: h∘f; on return without gradients and in evaluation mode, as the objective.
        source: Images, and their classes if ``supervision`` is given.
        settings: Length and optimiser.
        run: Seed, checkpoints, device, progress.
        moves: What is trained.
        supervision: Cross entropy on shifted, flipped and partly hidden images; None is without.
        objective: What else is minimised; None is nothing.
        weight: λ, the objective's share beside the cross entropy.
        target: Images that the objective sees in equal number beside the source's: UDA-SS.

    Raises:
        InputError: there are no labels; and as `acclimate.source.loop.train`.
    """
    if supervision:
        source.labels_for(f"the stage {name}")
    both = _Both(model, objective, moves)

    def loss(module: nn.Module, numbers: Tensor, epoch_key: int) -> Tensor:
        device = next(module.parameters()).device
        labelled, drawn = None, ()
        if supervision:
            labelled = _augmented(source, numbers, supervision, epoch_key, device)
        if objective is not None:
            drawn = _drawn(objective, source, target, numbers, epoch_key, device)
        votes, unsupervised = module(labelled, drawn)
        if supervision is None:
            return unsupervised
        labels = source.labels_for(name)[numbers].to(device)
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
    train(name, both, loss, settings, run, count=len(source.images), identity=identity)
    both.requires_grad_(False).eval()


class _Both(nn.Module):
    """One module for the loop: the classifier on labelled images, the objective on its views."""

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

    def train(self, mode: bool = True) -> "_Both":
        """Only what moves is ever in training mode."""
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
    """What an objective, and any within it, was constructed with, for a checkpoint's stamp."""
    return {
        f"{prefix}.{type(module).__name__}.{name}": _ADDRESS.sub("", repr(value))
        for prefix, module in (objective.named_modules() if objective is not None else ())
        if isinstance(module, Objective)
        for name, value in vars(module).items()
        if name[0] != "_" and name != "training"
    }


def _augmented(
    source: SourceImages, numbers: Tensor, supervision: Supervision, epoch_key: int, device
) -> Tensor:
    index = numbers.to(device)
    batch = shifted_crop(
        source.images[numbers].to(device),
        supervision.crop_padding,
        key=key(epoch_key, "shifted crop"),
        index=index,
    )
    if supervision.cutout:
        batch = cutout(batch, supervision.cutout, key=key(epoch_key, "cutout"), index=index)
    return source.preprocessing(batch)


def _drawn(
    objective: Objective,
    source: SourceImages,
    target: SourceImages | None,
    numbers: Tensor,
    epoch_key: int,
    device,
) -> tuple[Tensor, ...]:
    """Normalised views, and whatever else the objective's `source_loss` takes behind them."""
    images, index = _unlabelled(source, target, numbers, epoch_key, device)
    views, *rest = objective.source_draw(images, key(epoch_key, "views"), index)
    return source.preprocessing.normalize(views), *rest


def _unlabelled(
    source: SourceImages, target: SourceImages | None, numbers: Tensor, epoch_key: int, device
) -> tuple[Tensor, Tensor]:
    """The numbered source images in 0..1, as many target images behind them, and all numbers."""
    images = source.preprocessing.unit(source.images[numbers].to(device))
    if target is None:
        return images, numbers.to(device)
    # Where there are more than source images, another part of them each epoch.
    chosen = (numbers + epoch_key % len(target.images)) % len(target.images)
    others = source.preprocessing.unit(target.images[chosen].to(device))
    index = torch.cat([numbers, len(source.images) + chosen])
    return torch.cat([images, others]), index.to(device)
