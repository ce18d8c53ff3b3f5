"""Effect of two differences between papers and their released code, on Fashion-MNIST mini.

ClusT3: the released code reshapes ``[batch, clusters, h, w]`` to ``[clusters, ...]``, which mixes
images and clusters. It also balances the softmax of the mean logits, not the mean of the softmaxes.
All four combinations of paper and released loss in training and at deployment are measured. NC-TTT:
the released code for CIFAR negates the discriminator at deployment, which is correct only if label
1 means the stronger noise. One network adapts with and without the negation. The column "batch
norm" is the effect of batch statistics alone: the same steps with learning rate 0.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import ClassVar

from rich.console import Console
from rich.table import Table
from torch import Tensor

from acclimate.backbones import Classifier, as_map, tapped
from acclimate.bundle import Bundle
from acclimate.commands.script import finish, recorded_options, start
from acclimate.data import LabelledImages, Shift, load, subset
from acclimate.evaluate.measure import measure
from acclimate.evaluate.variant import Variant
from acclimate.methods import METHODS, RECIPES, changed
from acclimate.objectives import (
    Clustering,
    ClusteringOptions,
    NoiseContrastive,
    NoiseContrastiveOptions,
    Objective,
    ObjectiveOptions,
)
from acclimate.runtime.determinism import repeat_bits
from acclimate.runtime.memory import keep_freed_memory
from acclimate.runtime.progress import live
from acclimate.source.loop import Run, Training
from acclimate.source.presets import PRESETS
from acclimate.source.train import train

CORRUPTIONS = ("gaussian_noise", "defocus_blur", "fog")


@dataclass
class Options:
    """Training and adaptation on the embedded Fashion-MNIST."""

    epochs: int = 5
    """Epochs of joint training."""
    train_images: int = 10_000
    images: int = 500
    """Number of test images per corruption, at severity 5."""
    learning_rate: float = 1e-4
    """Learning rate of Adam at deployment. Both papers use 1e-5 on a ResNet-50."""
    projectors: int = 15
    """Number of projectors of ClusT3 on each tapped layer."""
    seeds: int = 3
    out: Path | None = None
    """JSON file for the result."""


def released_loss(logits: Tensor) -> Tensor:
    """Conditional entropy plus the divergence from uniform of the mean logits, for each head.

    Args:
        logits: Cluster logits ``[heads, clusters, points]``.
    """
    log_z = logits.log_softmax(1)
    conditional = -(log_z.exp() * log_z).sum(1).mean(1)  # [heads]
    clusters = logits.shape[1]
    log_mean = logits.mean(2).log_softmax(1)  # [heads, clusters]
    # Divergence from uniform, divided by the number of clusters as if it were the batch size.
    return conditional + (-math.log(clusters) - log_mean).mean(1) / clusters


class ReleasedClustering(Clustering):
    """ClusT3's loss in the released code: mixed logits, and the softmax of their mean."""

    def forward(self, model: Classifier, views: Tensor) -> Tensor:
        """The loss, summed over heads and taps."""
        loss = views.new_zeros(())
        for projector, features in zip(self.projectors, tapped(model.encoder, self.names, views)):
            logits = projector(as_map(features)).unflatten(1, (-1, self.clusters)).transpose(0, 1)
            logits = logits.reshape(len(logits), self.clusters, -1)  # [heads, clusters, points]
            loss = loss + released_loss(logits.float()).sum()
        return loss


class Negated(NoiseContrastive):
    """NC-TTT's loss with the discriminator's output negated: its last layer has no bias."""

    def _logits(self, features: Tensor) -> Tensor:
        return -super()._logits(features)


@dataclass(frozen=True)
class ReleasedClusteringOptions(ObjectiveOptions):
    """Options of `ReleasedClustering` at deployment."""

    kind: ClassVar[type[Objective]] = ReleasedClustering


@dataclass(frozen=True)
class NegatedOptions(ObjectiveOptions):
    """Options of `Negated` at deployment."""

    kind: ClassVar[type[Objective]] = Negated


def bundles(
    source: LabelledImages, options: Options, seed: int
) -> Iterator[tuple[str, str, Bundle]]:
    """Method, the loss that it was trained with, and the bundle."""
    stage = Training(options.epochs, 64, "sgd", learning_rate=0.05, weight_decay=5e-4)
    settings = replace(PRESETS["small"], joint=stage, cutout=0)
    clustering = {"projectors": options.projectors}
    for method, trained, kind in (
        ("clust3", "paper", Clustering),
        ("clust3", "release", ReleasedClustering),
        ("nc-ttt", "paper", NoiseContrastive),
    ):
        recipe = RECIPES[method]
        RECIPES[method] = replace(recipe, objective=kind)
        with live() as progress:
            run = Run(seed, progress=progress)
            objective_options = clustering if method == "clust3" else {}
            bundle = train(
                method, "acclimate:resnet8-w16", source, settings, run, options=objective_options
            )
        RECIPES[method] = recipe
        bundle.provenance["loss"] = run.history["joint"][-1]["loss"]
        yield method, trained, bundle


def rows(options: Options, seed: int) -> Iterator[dict]:
    """Accuracy of each combination under each corruption."""
    source = subset(load("fashion-mnist-mini", "train"), options.train_images)
    test = subset(load("fashion-mnist-mini", "test"), options.images)
    adapting = {
        "clust3": {"paper": ClusteringOptions(), "release": ReleasedClusteringOptions()},
        "nc-ttt": {"paper": NoiseContrastiveOptions(), "negated": NegatedOptions()},
    }
    for method, trained, bundle in bundles(source, options, seed):
        published, variant = METHODS[method].settings, Variant(method)
        for corruption in CORRUPTIONS:
            row = {"method": method, "trained": trained, "corruption": corruption, "seed": seed}
            row["training loss"] = bundle.provenance["loss"]
            shift = [Shift(corruption, 5)]
            row["frozen"] = measure(bundle, Variant("source"), test, shift, seed=seed)[0].accuracy
            for adapted, minimised in adapting[method].items():
                objective = minimised.kind(
                    bundle.classifier, bundle.preprocessing, **bundle.options
                )
                objective.load_state_dict(bundle.objective.state_dict())
                paired = replace(bundle, objective=objective)
                settings = replace(published, objective=minimised)
                cells = [
                    measure(paired, variant, test, shift, seed=seed, settings=chosen)[0]
                    for chosen in (
                        changed(settings, {"update.learning_rate": rate})
                        for rate in (0.0, options.learning_rate)
                    )
                ]
                accuracies = dict(zip(("batch norm", "steps"), (cell.accuracy for cell in cells)))
                yield row | {"adapted": adapted} | accuracies


def main(options: Options) -> None:
    """Measure all seeds, print means, write all rows."""
    keep_freed_memory()
    repeat_bits()
    measured = [row for seed in range(options.seeds) for row in rows(options, seed)]
    names, columns = ("method", "trained", "adapted"), ("frozen", "batch norm", "steps")
    # Mean over the last epoch, including the cross entropy. If NC-TTT's own term is log 2 = 0.693,
    # the discriminator has learned nothing, and its sign is meaningless.
    table = Table(*names, "training loss", *columns, title="accuracy in percent, means")
    for identity in dict.fromkeys(tuple(row[name] for name in names) for row in measured):
        same = [row for row in measured if tuple(row[name] for name in names) == identity]
        means = (f"{100 * mean(row[column] for row in same):.1f}" for column in columns)
        table.add_row(*identity, f"{mean(row['training loss'] for row in same):.3f}", *means)
    Console().print(table)
    result = {"options": recorded_options(options), "rows": measured}
    finish(result, 0, options.out)


if __name__ == "__main__":
    start(main, Options)
