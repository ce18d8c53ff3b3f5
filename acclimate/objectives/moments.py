"""Contrastive loss plus matching of the source's feature mean and covariance: TTT++."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from acclimate.backbones import Classifier
from acclimate.errors import InputError
from acclimate.objectives.contrastive import Contrastive
from acclimate.objectives.feature_moments import Moments, RunningMoments, rebatched
from acclimate.objectives.objective import Objective, TemperatureOptions
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import Key


class ContrastiveMoments(Objective):
    """TTT++ (Liu et al. 2021): contrastive loss, and matching of feature moments to the source's.

    The loss at deployment is the contrastive loss of two views of each image, plus λ times the
    distance between the moments of the target features and those of the source features, plus the
    same for the projections (see `Moments`). Target features are those of images without
    augmentation. Before deployment the loss is the contrastive loss alone.

    ```python
    objective = ContrastiveMoments(model, preprocessing, queue=256)
    objective.observe(model.eval(), source_batches)
    views, index = objective.draw(images, key(0), torch.arange(len(images)))
    loss = objective(model, preprocessing.normalize(views), index)
    ```

    Args:
        model: The classifier; its feature dimension is the input of the projector.
        preprocessing: Not used.
        temperature: Temperature τ of the contrastive loss.
        views: Augmentation of the two views; the fields of `SimCLRViews`.
        projection: Output dimension of the projector.
        queue: Number of target images over which the moments are computed, including the batch.
        feature_weight: Weight λ of the encoder's features. The released code has 0.05 on CIFAR-10
            and 5 on CIFAR-100.
        projection_weight: Weight λ of the projections. The released code has 0.2 and 20.

    Raises:
        InputError: projection is below 1, or queue below 2.
    """

    min_images: int = Contrastive.min_images
    replayable = True

    def __init__(
        self,
        model: Classifier,
        preprocessing: Preprocessing,
        *,
        temperature: float = 0.5,
        views: Mapping[str, float] | None = None,
        projection: int = 128,
        queue: int = 1536,
        feature_weight: float = 0.05,
        projection_weight: float = 0.2,
    ):
        super().__init__()
        if projection < 1 or queue < 2:
            raise InputError(
                f"TTT++ needs a projection of at least 1 output and a queue of at least 2 images, "
                f"not {projection} and {queue}."
            )
        self.contrastive: Contrastive = Contrastive(
            model, preprocessing, temperature=temperature, views=views, projection=projection
        )
        self.min_source_images: int = 2 * queue
        self.features: Moments = Moments(model.feature_dim, queue)
        self.projections: Moments = Moments(projection, queue)
        self.feature_weight = feature_weight
        self.projection_weight = projection_weight

    @property
    def temperature(self) -> float:
        """Temperature τ of the contrastive loss."""
        return self.contrastive.temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        self.contrastive.temperature = value

    def draw(
        self, images: Float[Tensor, "batch 3 h w"], key: Key, index: Int64[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "3*batch 3 h w"], Int64[Tensor, " batch"]]:
        """All first views, all second views, then the images unchanged; and the indices."""
        (views,) = self.contrastive.draw(images, key, index)
        return torch.cat([views, images]), index

    def forward(
        self,
        model: Classifier,
        views: Float[Tensor, "3*batch 3 h w"],
        index: Int64[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        """Contrastive loss of the views, plus the weighted distances of the moments."""
        views, images = views.split([2 * len(index), len(index)])
        contrastive = self.contrastive(model, views)
        # A separate forward pass, as released: batch norm must not mix images and views.
        features = model.encoder(images)
        projections = self.contrastive.projector(features)
        return (
            contrastive
            + self.feature_weight * self.features(features, index)
            + self.projection_weight * self.projections(projections, index)
        )

    def source_draw(
        self, images: Float[Tensor, "batch 3 h w"], key: Key, index: Int64[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "2*batch 3 h w"]]:
        """Draw two views of each image, in 0..1: all first views, then all second views."""
        return self.contrastive.draw(images, key, index)

    def source_loss(
        self, model: Classifier, views: Float[Tensor, "2*batch 3 h w"]
    ) -> Float[Tensor, ""]:
        """The contrastive loss alone."""
        return self.contrastive(model, views)

    @torch.no_grad()
    def observe(self, model: Classifier, batches: Iterable[Float[Tensor, "batch 3 h w"]]) -> None:
        """Store the moments of the source features and projections, and how much they vary.

        Raises:
            InputError: there are fewer images than twice the length of the queue.
        """
        size = len(self.features.queue)
        feature_moments, projection_moments = RunningMoments(size), RunningMoments(size)
        for features in rebatched(map(model.encoder, batches), size):
            feature_moments.add(features)
            projection_moments.add(self.contrastive.projector(features))
        feature_moments.write(self.features)
        projection_moments.write(self.projections)


@dataclass(frozen=True)
class ContrastiveMomentsOptions(TemperatureOptions):
    """Options of `ContrastiveMoments` at deployment.

    ```python
    AdapterSettings(steps=20, objective=ContrastiveMomentsOptions(), update=Adam(1e-5))
    ```
    """

    kind: ClassVar[type[Objective]] = ContrastiveMoments
