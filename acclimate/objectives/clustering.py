"""Mutual information between features and their clusters: ClusT3."""

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
    """Entropy of the cluster assignments, and their conditional entropy (ClusT3, Eq. 2).

    H(Z) = −Σ_k z̄_k log z̄_k with z̄ the mean of the probabilities z over all N = batch · positions
    points, and H(Z|X) = −1/N Σ_i Σ_k z_ik log z_ik. Both lie in 0..log(clusters), H(Z|X) ≤ H(Z),
    and their difference is the mutual information I(X; Z) between points and clusters.

    ```python
    marginal, conditional = cluster_entropies(torch.randn(8, 10, 64))  # 10 clusters
    information = marginal - conditional
    ```

    Args:
        logits: Cluster logits at each position of each image, before the softmax. In distributed
            training z̄ is the mean over all processes.

    Returns:
        H(Z) and H(Z|X) of each head, in nats and in at least float32.
    """
    log_z = at_least_float32(logits).log_softmax(-2)
    z = log_z.exp()
    conditional = -(z * log_z).sum(-2).mean((0, -1))  # [*heads]
    mean = gather(z.mean(-1)).mean(0)  # over all images: [*heads, clusters]
    # Clamped, so that the gradient of an empty cluster is finite.
    marginal = -(mean * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum(-1)
    return marginal, conditional


class Clustering(TrainedOnCrops):
    """Negative mutual information between feature maps and their clusters.

    Projectors are 1x1 convolutions on the feature maps of the tapped layers. Layers after the last
    tap receive no gradient at deployment. The losses of all projectors on all layers are summed, as
    in the paper (§ 3.2), so the loss lies in −taps · projectors · log(clusters)..0. The tokens of
    a transformer are its positions. The defaults are those of ClusT3-H15 on CIFAR-10.

    ```python
    objective = Clustering(model, preprocessing, taps=[1, 2], clusters=10)
    loss = objective(model, preprocessing.normalize(images))
    ```

    Args:
        model: The classifier; its encoder determines the number of channels.
        preprocessing: Preprocessing of its images; only their size is used.
        taps: Names of modules, or indices of stages, counted from 1 (Table 1: the first two).
        clusters: Number of clusters K (Table 2).
        projectors: Number of projectors on each tapped layer (Table 3).
        padding: Largest shift of the crops before deployment, in pixels.

    Raises:
        InputError: no tap, a tap that the encoder does not have, fewer than two clusters, or no
            projector.
    """

    replayable = True

    names: list[str]

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
        self.projectors: nn.ModuleList = nn.ModuleList(
            nn.Conv2d(channels, projectors * clusters, kernel_size=1) for channels, _, _ in shapes
        )

    def forward(self, model: Classifier, views: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, ""]:
        """The loss of the classifier's encoder on normalised images."""
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
    """Options of `Clustering` at deployment.

    ```python
    AdapterSettings(steps=20, objective=ClusteringOptions(), update=Adam(1e-5))
    ```
    """

    kind: ClassVar[type[Objective]] = Clustering
