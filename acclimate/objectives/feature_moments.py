"""Moments of source features, a queue of target features, and distances between moments."""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from acclimate.errors import InputError
from acclimate.runtime.precision import at_least_float32

# Weight of the mean term relative to the covariance term, as in the released code.
_MEAN_WEIGHT = 0.5


def coral_loss(
    source: Float[Tensor, "dim dim"], target: Float[Tensor, "dim dim"]
) -> Float[Tensor, ""]:
    """Distance between two covariances: ‖Σₛ − Σₜ‖² / 4d² (Sun & Saenko 2016, Deep CORAL, Eq. 1).

    ```python
    loss = coral_loss(source_features.T.cov(), target_features.T.cov())
    ```

    Args:
        source: Unbiased covariance of the source features.
        target: Unbiased covariance of the target features. The distance is computed in at least
            float32.
    """
    return (at_least_float32(source) - at_least_float32(target)).square().mean() / 4


def linear_mmd_loss(
    source: Float[Tensor, " dim"], target: Float[Tensor, " dim"]
) -> Float[Tensor, ""]:
    """Distance between two means: ‖μₛ − μₜ‖² / d (TTT++; divided by d as in the released code).

    ```python
    loss = linear_mmd_loss(source_features.mean(0), target_features.mean(0))
    ```

    Args:
        source: Mean of the source features.
        target: Mean of the target features. The distance is computed in at least float32.
    """
    return (at_least_float32(source) - at_least_float32(target)).square().mean()


class Moments(nn.Module):
    """Mean and covariance of the source features, and a queue of the latest target features.

    ```python
    moments = Moments(model.feature_dim, queue=1536)  # then filled by ContrastiveMoments.observe
    loss = moments(model.encoder(images), index)
    ```

    Args:
        dim: Feature dimension.
        queue: Number of target features over which the moments are computed.

    Attributes:
        covariance: Covariance of the source features.
        mean: Mean of the source features.
        variation: Typical covariance and mean distances between two samples of the source, which
            normalise the target's distances. NaN until the source has been observed.
        queue: Features of the target, detached. Image i of the stream is in row i modulo the
            length.
        filled: Whether each row holds the features of an image, all of them finite.
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
        """CORAL / c + ½ MMD / c' between the source features and the latest target features.

        The features are written to the queue, but only they receive gradients, not earlier ones.
        A batch at least as long as the queue is used without the queue.

        Args:
            features: Features of a batch of target images.
            index: Index of each image in the stream. A further step on the same batch writes to
                the same rows, so that no image counts twice.
        """
        features = at_least_float32(features)
        if len(features) < len(self.queue):
            rows = index % len(self.queue)
            latest = self.queue.index_copy(0, rows, features)
            self.queue.copy_(latest.detach())
            # NaN from one failed forward pass must not affect later steps.
            self.filled.index_copy_(0, rows, features.isfinite().all(1))
            if features.device.type != "cpu":  # how many rows count is not read from the device
                return self._loss(_moments_of_some(latest, self.filled))
            features = latest[self.filled]
        return self._loss(_moments(features))

    def _loss(self, moments: tuple[Tensor, Tensor]) -> Float[Tensor, ""]:
        source = self.covariance, self.mean
        coral, mmd = (_distances(source, moments) / self.variation).unbind()
        return coral + _MEAN_WEIGHT * mmd


class RunningMoments:
    """Moments of features that arrive in samples, and distances between the samples' moments."""

    def __init__(self, size: int):
        self.size = size
        self.count = 0
        self.mean = torch.zeros(())
        self.scatter = torch.zeros(())  # squared deviations from the mean, summed
        self.first: tuple[Tensor, Tensor] | None = None
        self.losses: list[Tensor] = []

    def add(self, sample: Float[Tensor, "n dim"]) -> None:
        """Add a sample. Only samples of ``size`` images are compared with the first one."""
        sample = at_least_float32(sample)
        moments = covariance, mean = _moments(sample)
        if len(sample) == self.size and self.first is not None:
            self.losses.append(_distances(self.first, moments))
        self.first = self.first or moments
        # Moments of a union from those of its parts (Chan, Golub and LeVeque 1979).
        n, total = len(sample), self.count + len(sample)
        difference = mean - self.mean.to(mean)
        between = self.count * n / total * difference[:, None] * difference
        self.scatter: Tensor = self.scatter.to(mean) + (n - 1) * covariance + between
        self.mean: Tensor = self.mean.to(mean) + n / total * difference
        self.count: int = total

    def write(self, moments: Moments) -> None:
        """Store the moments and their variation in the buffers of ``moments``.

        Raises:
            InputError: there were fewer than 2 · ``size`` images.
        """
        if not self.losses:
            raise InputError(
                f"the variation of the source features is estimated from {2 * self.size} images or "
                f"more, not from {self.count}; give more source images, or choose a shorter queue."
            )
        moments.covariance.copy_(self.scatter / (self.count - 1))
        moments.mean.copy_(self.mean)
        moments.variation.copy_(torch.stack(self.losses).mean(0))


def _moments(
    features: Float[Tensor, "n dim"],
) -> tuple[Float[Tensor, "dim dim"], Float[Tensor, " dim"]]:
    """Unbiased covariance and mean. The covariance of a single image is zero."""
    mean = features.mean(0)
    with torch.autocast(features.device.type, enabled=False):
        centred = features - mean
        return centred.T @ centred / max(1, len(features) - 1), mean


def _moments_of_some(
    features: Float[Tensor, "n dim"], chosen: Bool[Tensor, " n"]
) -> tuple[Float[Tensor, "dim dim"], Float[Tensor, " dim"]]:
    """`_moments` of the chosen rows; the others may hold anything."""
    count, chosen = chosen.sum(), chosen[:, None]
    mean = torch.where(chosen, features, 0).sum(0) / count
    with torch.autocast(features.device.type, enabled=False):
        centred = torch.where(chosen, features - mean, 0)
        return centred.T @ centred / (count - 1).clamp_min(1), mean


def _distances(source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> Float[Tensor, "2"]:
    return torch.stack([coral_loss(source[0], target[0]), linear_mmd_loss(source[1], target[1])])


def rebatched(batches: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The same rows in batches of ``size``; the last batch may be smaller."""
    rest = None
    for batch in batches:
        rest = batch if rest is None else torch.cat([rest, batch])
        while len(rest) >= size:
            yield rest[:size]
            rest = rest[size:]
    if rest is not None and len(rest):
        yield rest
