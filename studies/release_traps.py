"""What the differences between two papers and their releases are worth, on Fashion-MNIST mini.

ClusT3: the release views ``[batch, clusters, h, w]`` as ``[clusters, ...]``, which mixes images and
clusters, and balances the softmax of mean logits, not the mean of softmaxes. Both losses train
jointly and both adapt, in all four pairings. NC-TTT: the CIFAR release negates the discriminator at
deployment, which is right only where its label 1 stands for the stronger noise. One network is
adapted with and without. The column "batch norm" is what moving statistics alone do: the same
steps with learning rate zero.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table
from torch import Tensor

from acclimate.backbones import Classifier, as_map, tapped
from acclimate.bundle import Bundle
from acclimate.commands.script import finish, recorded_options, start
from acclimate.data import LabelledImages, Shift, load, subset
from acclimate.evaluate.measure import measure
from acclimate.methods import METHODS, RECIPES
from acclimate.objectives import Clustering, NoiseContrastive
from acclimate.runtime.determinism import repeat_bits
from acclimate.runtime.memory import keep_freed_memory
from acclimate.runtime.progress import live
from acclimate.source.loop import Run, Training
from acclimate.source.presets import PRESETS
from acclimate.source.train import train

CORRUPTIONS = ("gaussian_noise", "defocus_blur", "fog")


@dataclass
class Options:
    """Train and adapt on the embedded Fashion-MNIST."""

    epochs: int = 5
    """Epochs of joint training."""
    train_images: int = 10_000
    images: int = 500
    """Test images that are adapted to, under each corruption at severity 5."""
    learning_rate: float = 1e-4
    """Learning rate of Adam at deployment; 1e-5 is published for both, on a ResNet-50."""
    projectors: int = 15
    """Projectors of ClusT3 on each tapped layer."""
    seeds: int = 3
    out: Path | None = None
    """A JSON file."""


def released_loss(logits: Tensor) -> Tensor:
    """Conditional entropy plus the divergence of the mean from uniform, of each head.

    Args:
        logits: ``[heads, clusters, points]``.
    """
    log_z = logits.log_softmax(1)
    conditional = -(log_z.exp() * log_z).sum(1).mean(1)  # [heads]
    clusters = logits.shape[1]
    log_mean = logits.mean(2).log_softmax(1)  # [heads, clusters]
    # From uniform, and divided by the clusters as if they were a batch.
    return conditional + (-math.log(clusters) - log_mean).mean(1) / clusters


class ReleasedClustering(Clustering):
    """ClusT3's loss as released: of mixed logits, and with the softmax of their mean."""

    def forward(self, model: Classifier, views: Tensor) -> Tensor:
        """Summed over heads and taps."""
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


def bundles(
    source: LabelledImages, options: Options, seed: int
) -> Iterator[tuple[str, str, Bundle]]:
    """Method, what trained it, and the bundle."""
    stage = Training(options.epochs, 64, "sgd", learning_rate=0.05, weight_decay=5e-4)
    settings = replace(PRESETS["small"], joint=stage, cutout=0)
    given = {"projectors": options.projectors}
    for method, trained, kind in (
        ("clust3", "paper", Clustering),
        ("clust3", "release", ReleasedClustering),
        ("nc-ttt", "paper", NoiseContrastive),
    ):
        recipe = RECIPES[method]
        RECIPES[method] = replace(recipe, objective=kind)
        with live() as progress:
            run = Run(seed, progress=progress)
            chosen = given if method == "clust3" else {}
            bundle = train(method, "acclimate:resnet8-w16", source, settings, run, options=chosen)
        RECIPES[method] = recipe
        bundle.provenance["loss"] = run.history["joint"][-1]["loss"]
        yield method, trained, bundle


def rows(options: Options, seed: int) -> Iterator[dict]:
    """Every pairing's accuracy on every corruption."""
    source = subset(load("fashion-mnist-mini", "train"), options.train_images)
    test = subset(load("fashion-mnist-mini", "test"), options.images)
    adapting = {
        "clust3": {"paper": Clustering, "release": ReleasedClustering},
        "nc-ttt": {"paper": NoiseContrastive, "negated": Negated},
    }
    for method, trained, bundle in bundles(source, options, seed):
        settings = replace(METHODS[method].settings, learning_rate=options.learning_rate)
        still = replace(settings, learning_rate=0.0)
        for corruption in CORRUPTIONS:
            row = {"method": method, "trained": trained, "corruption": corruption, "seed": seed}
            row["training loss"] = bundle.provenance["loss"]
            shift = [Shift(corruption, 5)]
            row["frozen"] = measure(bundle, "source", test, shift, seed=seed)[0].accuracy
            for adapted, kind in adapting[method].items():
                other = kind(bundle.classifier, bundle.preprocessing, **bundle.options)
                other.load_state_dict(bundle.objective.state_dict())
                METHODS[method] = replace(METHODS[method], objective=kind)
                paired = replace(bundle, objective=other)
                found = [
                    measure(paired, method, test, shift, seed=seed, settings=chosen)[0]
                    for chosen in (still, settings)
                ]
                METHODS[method] = replace(METHODS[method], objective=RECIPES[method].objective)
                numbers = dict(zip(("batch norm", "steps"), (cell.accuracy for cell in found)))
                yield row | {"adapted": adapted} | numbers


def main(options: Options) -> None:
    """Measure all seeds, show their means, write everything."""
    keep_freed_memory()
    repeat_bits()
    found = [row for seed in range(options.seeds) for row in rows(options, seed)]
    names, numbers = ("method", "trained", "adapted"), ("frozen", "batch norm", "steps")
    # The last epoch's mean, cross entropy included: NC-TTT's own part is log 2 = 0.693 if the
    # discriminator has learned nothing, and then its sign says nothing.
    table = Table(*names, "training loss", *numbers, title="accuracy in percent, means")
    for identity in dict.fromkeys(tuple(row[name] for name in names) for row in found):
        same = [row for row in found if tuple(row[name] for name in names) == identity]
        means = (f"{100 * mean(row[number] for row in same):.1f}" for number in numbers)
        table.add_row(*identity, f"{mean(row['training loss'] for row in same):.3f}", *means)
    Console().print(table)
    result = {"options": recorded_options(options), "rows": found}
    finish(result, 0, options.out)


if __name__ == "__main__":
    start(main, Options)
