"""Clusters of features tell as much about shifted images as about source images: ClusT3."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from acclimate.backbones import Classifier
from acclimate.backbones.stages import as_map
from acclimate.backbones.taps import tapped
from acclimate.errors import InputError
from acclimate.objectives.objective import Objective, ObjectiveOptions, TrainedOnCrops
from acclimate.objectives.tapped_shapes import tapped_shapes
from acclimate.preprocessing import Preprocessing
from acclimate.runtime.precision import at_least_float32
from acclimate.runtime.ranks import gather


def cluster_entropies(
    logits: Float[Tensor, "batch *heads clusters positions"],
) -> tuple[Float[Tensor, "*heads"], Float[Tensor, "*heads"]]:
    """Entropy of a batch's clusters, and mean entropy of a position's cluster (ClusT3, Eq. 2).

    H(Z) = −Σ_k z̄_k log z̄_k with z̄ the mean of the probabilities z over all N = batch · positions
    points, and H(Z|X) = −1/N Σ_i Σ_k z_ik log z_ik. Both lie in 0..log clusters, H(Z) is never the
    lesser, and their difference is the mutual information I(X; Z) of points and clusters.

    Args:
        logits: Of each image and position, softmax over clusters still to come. Under several
            processes z̄ is the mean over all of them.

    Returns:
        H(Z) and H(Z|X), in nats and in at least float32, of each head.
    """
    log_z = at_least_float32(logits).log_softmax(-2)
    z = log_z.exp()
    conditional = -(z * log_z).sum(-2).mean((0, -1))  # [*heads]
    mean = gather(z.mean(-1)).mean(0)  # of all images: [*heads, clusters]
    # Clamped, so that a cluster that no point is in has finite gradients.
    marginal = -(mean * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum(-1)
    return marginal, conditional


class Clustering(TrainedOnCrops):
    """The negative mutual information of feature maps and their clusters, summed over projectors.

    Projectors are 1x1 convolutions on the maps of some stages; the last stage that is tapped is
    the last that learns at deployment. All of a layer's and all layers' losses are summed, as in
    the paper (§ 3.2), so the loss lies in −taps · projectors · log clusters..0. A transformer's
    tokens are positions. The defaults are ClusT3-H15 on CIFAR-10.

    Args:
        model: Gives the channels of the maps.
        preprocessing: Gives the size of the images.
        taps: Each a module's name or a stage's number from 1 (Table 1: the first two).
        clusters: K (Table 2).
        projectors: On each tapped layer (Table 3).
        padding: Of the shifted crops before deployment, in pixels.

    Raises:
        InputError: no taps or one that the encoder does not have, fewer than two clusters, or no
            projector.
    """

    def __init__(
        self,
        model: Classifier,
        preprocessing: Preprocessing,
        *,
        taps: Sequence[str | int] = (1, 2),
        clusters: int = 10,
        projectors: int = 15,
        padding: int = 4,
    ):
        super().__init__()
        if not taps or clusters < 2 or projectors < 1:
            raise InputError(
                f"clustering needs at least one tap, two clusters and one projector, not "
                f"{list(taps)}, {clusters} and {projectors}."
            )
        self.clusters = clusters
        self.padding = padding
        self.names, shapes = tapped_shapes(model, preprocessing, taps)
        self.projectors = nn.ModuleList(
            nn.Conv2d(channels, projectors * clusters, kernel_size=1) for channels, _, _ in shapes
        )

    def forward(self, model: Classifier, views: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, ""]:
        """The loss of a classifier's encoder on normalised images."""
        loss = views.new_zeros(())
        maps = tapped(model.encoder, self.names, views)
        for projector, features in zip(self.projectors, maps):
            logits = projector(as_map(features)).flatten(2)  # [batch, projectors * K, positions]
            logits = logits.unflatten(1, (-1, self.clusters))
            marginal, conditional = cluster_entropies(logits)
            loss = loss - (marginal - conditional).sum()
        return loss


@dataclass(frozen=True)
class ClusteringOptions(ObjectiveOptions):
    """Options of `Clustering` at deployment."""

    kind: ClassVar[type[Objective]] = Clustering
