"""What two differences between a paper and its release are worth, on a small problem.

ClusT3: the release views `[batch, clusters, h, w]` as `[clusters, ...]`, which mixes images and
clusters, and balances the softmax of mean logits, not the mean of softmaxes. Both losses train
jointly and both adapt, in all four pairings. NC-TTT: the CIFAR release negates the discriminator at
deployment, which is right only where its label 1 stands for the stronger noise. One network is
adapted with and without. Every batch starts from the source, learns with batch norm in training
mode and is answered for in evaluation mode; the column "statistics" is what that does alone.
"""

import copy
import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro
from common import finish
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import cross_entropy

from acclimate.backbones import Classifier, build, split
from acclimate.backbones.stages import as_map
from acclimate.backbones.taps import tapped
from acclimate.data import corrupt, load
from acclimate.memory import keep_freed_memory
from acclimate.objectives.clustering import Clustering
from acclimate.objectives.noise_contrastive import NoiseContrastive
from acclimate.objectives.objective import Objective
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import key, permutation

Loss = Callable[[Objective, Classifier, Tensor], Tensor]
CORRUPTIONS = ("gaussian_noise", "fog")


@dataclass
class Options:
    """Train and adapt on the embedded Fashion-MNIST."""

    epochs: int = 3
    """Of joint training, with Adam at 1e-3."""
    train_images: int = 2560
    images: int = 256
    """Test images that are adapted to, under each corruption."""
    batch: int = 128
    steps: int = 20
    learning_rate: float = 1e-3
    """Of Adam at deployment; 1e-5 is published for both methods, on ResNet-50."""
    projectors: int = 4
    """Of ClusT3 on each tapped layer; 15 are published, of which a small network has no need."""
    seeds: int = 1
    out: Path | None = None
    """A JSON file."""


def paper(objective: Objective, model: Classifier, views: Tensor) -> Tensor:
    """The objective's own loss at deployment."""
    return objective(model, views)


def released_clustering(objective: Objective, model: Classifier, views: Tensor) -> Tensor:
    """ClusT3's loss as released: of mixed logits, and the softmax of their mean."""
    assert isinstance(objective, Clustering)
    loss = views.new_zeros(())
    maps = tapped(model.encoder, objective.names, views)
    for projector, features in zip(objective.projectors, maps, strict=True):
        logits = projector(as_map(features)).unflatten(1, (-1, objective.clusters)).transpose(0, 1)
        loss = loss + released_entropies(logits.reshape(len(logits), objective.clusters, -1))
    return loss


def released_entropies(logits: Tensor) -> Tensor:
    """Sum over heads, from logits ``[heads, clusters, points]``."""
    log_z = logits.log_softmax(1)
    conditional = -(log_z.exp() * log_z).sum(1).mean(1)  # [heads]
    clusters = logits.shape[1]
    log_mean = logits.mean(2).log_softmax(1)  # [heads, clusters]
    # The Kullback-Leibler divergence from uniform, divided by the clusters as if they were a batch.
    divergence = (-math.log(clusters) - log_mean).mean(1) / clusters
    return (conditional + divergence).sum()


def negated(objective: Objective, model: Classifier, views: Tensor) -> Tensor:
    """NC-TTT's loss with the discriminator's output negated: its last layer has no bias."""
    assert isinstance(objective, NoiseContrastive)
    other = copy.deepcopy(objective)
    with torch.no_grad():
        other.discriminator[-1].weight.neg_()
    return other(model, views)


def train(
    model: Classifier,
    objective: Objective,
    loss: Loss | None,
    data: tuple[Tensor, Tensor, Preprocessing],
    options: Options,
    seed: int,
) -> float:
    """Cross entropy and the loss, or the objective's source loss; the last epoch's mean of it."""
    images, labels, preprocessing = data
    optimiser = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=1e-3)
    found = []
    for epoch in range(options.epochs):
        found = []
        for index in permutation(key(seed, "order", epoch), len(images)).split(options.batch):
            views, *drawn = objective.source_draw(
                preprocessing.unit(images[index]), key(seed, "views", epoch), index
            )
            views = preprocessing.normalize(views)
            unlabelled = (
                loss(objective, model, views)
                if loss
                else objective.source_loss(model, views, *drawn)
            )
            optimiser.zero_grad()
            (cross_entropy(model(views), labels[index]) + unlabelled).backward()
            optimiser.step()
            found.append(unlabelled.item())
    return statistics.mean(found)


def accuracy(
    model: Classifier,
    objective: Objective,
    loss: Loss | None,
    data: tuple[Tensor, Tensor],
    options: Options,
) -> float:
    """After adapting to each batch from the source on; data are normalised images and labels.

    Without a loss only the statistics of batch norm move.
    """
    right = 0
    for images, labels in zip(*(part.split(options.batch) for part in data), strict=True):
        learner, parts = copy.deepcopy(model).train(), copy.deepcopy(objective).train()
        optimiser = torch.optim.Adam(learner.encoder.parameters(), lr=options.learning_rate)
        for _ in range(options.steps):
            if loss is None:
                with torch.no_grad():
                    learner(images)
                continue
            optimiser.zero_grad()
            loss(parts, learner, images).backward()
            optimiser.step()
        with torch.no_grad():
            right += int((learner.eval()(images).argmax(1) == labels).sum())
    return right / len(data[1])


def rows(options: Options, seed: int) -> list[dict]:
    """Every pairing's accuracy on every corruption."""
    source, target = load("fashion-mnist-mini", "train"), load("fashion-mnist-mini", "test")
    preprocessing = Preprocessing.fit(source.images)
    count = options.train_images
    data = source.images[:count], source.labels[:count], preprocessing
    labels = target.labels[: options.images]
    tests = {
        name: (preprocessing(corrupt(target.images[: options.images], name, 5)), labels)
        for name in CORRUPTIONS
    }
    losses: dict[str, dict[str, Loss]] = {
        "clust3": {"paper": paper, "release": released_clustering},
        "nc-ttt": {"paper": paper, "negated": negated},
    }
    found = []
    for method, trained in (("clust3", "paper"), ("clust3", "release"), ("nc-ttt", "paper")):
        torch.manual_seed(seed)
        model = split(build("acclimate:resnet8-w16", classes=10))
        objective = (
            Clustering(model, preprocessing, projectors=options.projectors)
            if method == "clust3"
            else NoiseContrastive(model, preprocessing)
        )
        own = None if trained == "paper" else losses[method][trained]
        last = train(model, objective, own, data, options, seed)
        for name, test in tests.items():
            with torch.no_grad():
                before = (model.eval()(test[0]).argmax(1) == test[1]).double().mean().item()
            model.train()
            row = {"method": method, "trained": trained, "corruption": name, "seed": seed}
            row |= {"training loss": last, "before": before}
            row["statistics"] = accuracy(model, objective, None, test, options)
            for adapted, loss in losses[method].items():
                after = accuracy(model, objective, loss, test, options)
                found.append(row | {"adapted": adapted, "after": after})
    return found


def main(options: Options) -> None:
    """Measure all seeds, show their means, write everything."""
    keep_freed_memory()
    found = [row for seed in range(options.seeds) for row in rows(options, seed)]
    names = ("method", "trained", "adapted", "corruption")
    numbers = ("before", "statistics", "after")
    # A discriminator whose loss is log 2 = 0.693 has learned nothing, and its sign says nothing.
    loss = "training loss"
    table = Table(*names, loss, *numbers, title="accuracy in percent, mean over seeds")
    for identity in dict.fromkeys(tuple(row[name] for name in names) for row in found):
        same = [row for row in found if tuple(row[name] for name in names) == identity]
        means = (100 * statistics.mean(row[number] for row in same) for number in numbers)
        learned = f"{statistics.mean(row[loss] for row in same):.3f}"
        table.add_row(*identity, learned, *(f"{mean:.1f}" for mean in means))
    Console().print(table)
    result = {"options": asdict(options) | {"out": str(options.out)}, "rows": found}
    finish(result, 0, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
