"""Two views attract, and the target's features keep the source's mean and covariance: TTT++."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from acclimate.backbones import Classifier
from acclimate.errors import InputError
from acclimate.objectives.contrastive import Contrastive
from acclimate.objectives.objective import Objective, TemperatureOptions
from acclimate.preprocessing import Preprocessing
from acclimate.runtime.precision import at_least_float32

# Of the mean's term beside the covariance's, as released.
_MEAN_SHARE = 0.5


def coral_loss(
    source: Float[Tensor, "dim dim"], target: Float[Tensor, "dim dim"]
) -> Float[Tensor, ""]:
    """How far two covariances are apart: ‖Σₛ − Σₜ‖² / 4d² (Sun & Saenko 2016, Deep CORAL, Eq. 1).

    Args:
        source: Unbiased covariance of the source's features.
        target: Unbiased covariance of the target's. Compared in at least float32.
    """
    return (at_least_float32(source) - at_least_float32(target)).square().mean() / 4


def linear_mmd_loss(
    source: Float[Tensor, " dim"], target: Float[Tensor, " dim"]
) -> Float[Tensor, ""]:
    """How far two means are apart: ‖μₛ − μₜ‖² / d (TTT++; divided by d as released).

    Args:
        source: Mean of the source's features.
        target: Mean of the target's. Compared in at least float32.
    """
    return (at_least_float32(source) - at_least_float32(target)).square().mean()


class Moments(nn.Module):
    """What is known of the source's features, and a queue of the target's latest ones.

    Args:
        dim: Size of the features.
        queue: Over how many target features the moments are taken.

    Attributes:
        covariance: Of the source's features.
        mean: Of the source's features.
        variation: The loss of the covariance and of the mean between samples of the source: the
            unit of the target's distance. NaN as long as nothing is known of the source.
        queue: The target's features, detached; image number i is in row i modulo the length.
        filled: Which rows hold an image's features, all finite.
    """

    covariance: Tensor
    mean: Tensor
    variation: Tensor
    queue: Tensor
    filled: Tensor

    def __init__(self, dim: int, queue: int):
        super().__init__()
        self.register_buffer("covariance", torch.zeros(dim, dim))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variation", torch.full((2,), torch.nan))
        self.register_buffer("queue", torch.zeros(queue, dim))
        self.register_buffer("filled", torch.zeros(queue, dtype=torch.bool))

    def forward(
        self, features: Float[Tensor, "batch dim"], index: Int64[Tensor, " batch"]
    ) -> Float[Tensor, ""]:
        """CORAL / c + ½ MMD / c' between the source and the target's latest features.

        The features join the queue, but gradients reach only them. A batch as long as the queue
        is compared alone.

        Args:
            features: Of a batch of target images.
            index: The images' numbers in their stream: in the next step on the same batch they
                take their old rows, so that no image counts twice.
        """
        features = at_least_float32(features)
        if len(features) < len(self.queue):
            rows = index % len(self.queue)
            latest = self.queue.index_copy(0, rows, features)
            self.queue.copy_(latest.detach())
            # NaN of a pass that went wrong must not stay in all that follow.
            self.filled.index_copy_(0, rows, features.isfinite().all(1))
            features = latest[self.filled]
        source = self.covariance, self.mean
        coral, mmd = (_distances(source, _moments(features)) / self.variation).unbind()
        return coral + _MEAN_SHARE * mmd


class ContrastiveMoments(Objective):
    """TTT++ (Liu et al. 2021): the contrastive loss, and moments that stay the source's.

    The loss at deployment is the contrastive loss of two views of each image, plus λ times the
    distance of the plain images' features from the source's, plus the same of their projections
    (see `Moments`). Before deployment it is the contrastive loss alone.

    Args:
        model: Gives the size of the features.
        preprocessing: Not used.
        temperature: τ of the contrastive loss.
        views: How the two views of each image are drawn; the fields of `SimCLRViews`.
        projection: Outputs of the projector.
        queue: Over how many target images the moments are taken, those of the batch included.
        feature_weight: λ of the encoder's features: 0.05 is released for CIFAR-10, 5 for CIFAR-100.
        projection_weight: λ of the projections: 0.2 and 20.

    Raises:
        InputError: no projector, or a queue of fewer than two images.
    """

    min_images = Contrastive.min_images

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
        self.contrastive = Contrastive(
            model, preprocessing, temperature=temperature, views=views, projection=projection
        )
        self.min_source_images = 2 * queue
        self.features = Moments(model.feature_dim, queue)
        self.projections = Moments(projection, queue)
        self.feature_weight = feature_weight
        self.projection_weight = projection_weight

    @property
    def temperature(self) -> float:
        """τ of the contrastive loss."""
        return self.contrastive.temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        self.contrastive.temperature = value

    def draw(
        self, images: Float[Tensor, "batch 3 h w"], key: int, index: Int64[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "3*batch 3 h w"], Int64[Tensor, " batch"]]:
        """All first views, all second views, the images themselves; and the images' numbers."""
        (views,) = self.contrastive.draw(images, key, index)
        return torch.cat([views, images]), index

    def forward(
        self,
        model: Classifier,
        views: Float[Tensor, "3*batch 3 h w"],
        index: Int64[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        """The views' contrastive loss and the images' distance from the source."""
        views, images = views.split([2 * len(index), len(index)])
        contrastive = self.contrastive(model, views)
        # A pass of their own, as released: batch norm is not to mix images with their views.
        features = model.encoder(images)
        projections = self.contrastive.projector(features)
        return (
            contrastive
            + self.feature_weight * self.features(features, index)
            + self.projection_weight * self.projections(projections, index)
        )

    def source_draw(
        self, images: Float[Tensor, "batch 3 h w"], key: int, index: Int64[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "2*batch 3 h w"]]:
        """Both views of each image, 0..1: all first views, then all second views."""
        return self.contrastive.draw(images, key, index)

    def source_loss(
        self, model: Classifier, views: Float[Tensor, "2*batch 3 h w"]
    ) -> Float[Tensor, ""]:
        """The contrastive loss alone."""
        return self.contrastive(model, views)

    @torch.no_grad()
    def observe(self, model: Classifier, batches: Iterable[Float[Tensor, "batch 3 h w"]]) -> None:
        """Keep the moments of the source's features and projections, and how much these vary.

        Raises:
            InputError: fewer images than two queues hold.
        """
        size = len(self.features.queue)
        of_features, of_projections = _Summary(size), _Summary(size)
        for features in _regrouped(map(model.encoder, batches), size):
            of_features.add(features)
            of_projections.add(self.contrastive.projector(features))
        of_features.write(self.features)
        of_projections.write(self.projections)


class _Summary:
    """Moments of features that come in samples, and how far these samples' moments are apart."""

    def __init__(self, size: int):
        self.size = size
        self.count = 0
        self.mean = torch.zeros(())
        self.scatter = torch.zeros(())  # squared deviations from the mean, summed
        self.first: tuple[Tensor, Tensor] | None = None
        self.losses: list[Tensor] = []

    def add(self, sample: Float[Tensor, "n dim"]) -> None:
        """Take in a sample; one of fewer than ``size`` images is not compared with the first."""
        sample = at_least_float32(sample)
        moments = covariance, mean = _moments(sample)
        if len(sample) == self.size and self.first is not None:
            self.losses.append(_distances(self.first, moments))
        self.first = self.first or moments
        # The moments of a union from those of its parts (Chan, Golub and LeVeque 1979).
        n, both = len(sample), self.count + len(sample)
        moved = mean - self.mean.to(mean)
        between = self.count * n / both * moved[:, None] * moved
        self.scatter = self.scatter.to(mean) + (n - 1) * covariance + between
        self.mean = self.mean.to(mean) + n / both * moved
        self.count = both

    def write(self, moments: Moments) -> None:
        if not self.losses:
            raise InputError(
                f"how much the source's features vary can be told from {2 * self.size} images, not "
                f"from {self.count}; give more source images, or choose a shorter queue."
            )
        moments.covariance.copy_(self.scatter / (self.count - 1))
        moments.mean.copy_(self.mean)
        moments.variation.copy_(torch.stack(self.losses).mean(0))


def _moments(
    features: Float[Tensor, "n dim"],
) -> tuple[Float[Tensor, "dim dim"], Float[Tensor, " dim"]]:
    """Unbiased covariance, and mean. The covariance of a single image is zero."""
    mean = features.mean(0)
    with torch.autocast(features.device.type, enabled=False):
        centred = features - mean
        return centred.T @ centred / max(1, len(features) - 1), mean


def _distances(source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> Float[Tensor, "2"]:
    return torch.stack([coral_loss(source[0], target[0]), linear_mmd_loss(source[1], target[1])])


def _regrouped(batches: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The same rows in samples of ``size``; the last may be smaller."""
    held = None
    for batch in batches:
        held = batch if held is None else torch.cat([held, batch])
        while len(held) >= size:
            yield held[:size]
            held = held[size:]
    if held is not None and len(held):
        yield held


@dataclass(frozen=True)
class ContrastiveMomentsOptions(TemperatureOptions):
    """Options of `ContrastiveMoments` at deployment."""

    kind: ClassVar[type[Objective]] = ContrastiveMoments
