"""Tell features with little noise from features with much: NC-TTT's density of the source."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from acclimate import randomness
from acclimate.backbones import Classifier
from acclimate.backbones.stages import as_map
from acclimate.backbones.taps import tapped
from acclimate.errors import InputError
from acclimate.objectives.objective import Objective, ObjectiveOptions, TrainedOnCrops
from acclimate.objectives.tapped_shapes import tapped_shapes
from acclimate.preprocessing import Preprocessing
from acclimate.runtime.precision import at_least_float32


def in_distribution_probability(
    noise: Float[Tensor, "batch dim"], sigma_in: float, sigma_out: float
) -> Float[Tensor, " batch"]:
    """How probable it is that noise is the weaker of two isotropic Gaussians (NC-TTT, § 3).

    By Bayes, with both equally probable beforehand, for noise ε of D dimensions:
    p(in | ε) = sigmoid( ½ (1/σ_o² − 1/σ_s²) ‖ε‖² − D log(σ_s/σ_o) ).

    Args:
        noise: What was added to each feature.
        sigma_in: σ_s, the deviation of noise that leaves a feature in the source distribution.
        sigma_out: σ_o, the larger one, of noise that takes it out.

    Returns:
        0..1, in at least float32.
    """
    squared = at_least_float32(noise).square().sum(1)
    precision = 0.5 * (sigma_out**-2 - sigma_in**-2)
    return torch.sigmoid(precision * squared - noise.shape[1] * math.log(sigma_in / sigma_out))


class NoiseContrastive(TrainedOnCrops):
    """A discriminator of noise levels on a projected map; at deployment, −log p(in) of features.

    The discriminator D gives the logit of p(in): before deployment it learns the probability of
    each feature's noise, and afterwards the encoder learns to make target features, without noise,
    probable: the mean of −log sigmoid(D(z)). The map is flattened, so its size is fixed. Projector
    and discriminator compute in float32, for bf16 rounds features more coarsely than σ_s.

    Args:
        model: Gives the channels of the map.
        preprocessing: Gives the size of the images.
        tap: A module's name or a stage's number from 1.
        sigma_in: σ_s. Both defaults are those of the release's command line.
        sigma_out: σ_o.
        projection: Channels that the 1x1 projector gives; 0 is three times the map's, 1,536 on the
            second stage of a ResNet-50, as released.
        hidden: Units of the discriminator's only hidden layer.
        padding: Of the shifted crops before deployment, in pixels.

    Raises:
        InputError: a tap that the encoder does not have, or deviations that are not
            0 < σ_s < σ_o.
    """

    min_images = 2  # the discriminator has a batch norm

    def __init__(
        self,
        model: Classifier,
        preprocessing: Preprocessing,
        *,
        tap: str | int = 2,
        sigma_in: float = 0.015,
        sigma_out: float = 0.1,
        projection: int = 0,
        hidden: int = 4,
        padding: int = 4,
    ):
        super().__init__()
        if not 0 < sigma_in < sigma_out < math.inf:
            raise InputError(
                f"the noise within the distribution must be weaker than that without: "
                f"0 < sigma_in < sigma_out, not {sigma_in} and {sigma_out}."
            )
        self.sigma_in, self.sigma_out = sigma_in, sigma_out
        self.padding = padding
        self.names, [(channels, height, width)] = tapped_shapes(model, preprocessing, [tap])
        projection = projection or 3 * channels
        self.projector = nn.Conv2d(channels, projection, kernel_size=1)
        self.discriminator = nn.Sequential(
            nn.Linear(projection * height * width, hidden),
            nn.BatchNorm1d(hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, 1, bias=False),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_normal_(module.weight)

    def forward(self, model: Classifier, views: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, ""]:
        """−log p(in) of the features of normalised images, without noise."""
        with torch.autocast(views.device.type, enabled=False):
            return softplus(-self._logits(self._features(model, views))).mean()

    def source_draw(
        self, images: Float[Tensor, "batch 3 h w"], key: int, index: Int64[Tensor, " batch"]
    ) -> tuple[Tensor, ...]:
        """Shifted crops, and what the noise is drawn from: a key, and each image's number."""
        (crops,) = super().source_draw(images, key, index)
        return crops, torch.tensor(randomness.key(key, "feature noise")), index

    def source_loss(
        self,
        model: Classifier,
        views: Float[Tensor, "batch 3 h w"],
        key: Int64[Tensor, ""],
        index: Int64[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        """Cross entropy of the discriminator: each feature once with each of the two noises."""
        features = self._features(model, views)  # [batch, dim]
        batch, dim = features.shape
        noise = randomness.normal(int(key), index, 2 * dim).view(batch, 2, dim)
        noise *= noise.new_tensor([self.sigma_in, self.sigma_out])[:, None]
        noise = noise.transpose(0, 1).flatten(0, 1)  # [2 batch, dim]: weak, then strong
        target = in_distribution_probability(noise, self.sigma_in, self.sigma_out)
        with torch.autocast(views.device.type, enabled=False):
            logits = self._logits(features.repeat(2, 1) + noise)
            return binary_cross_entropy_with_logits(logits, target.to(logits))

    def _features(self, model: Classifier, views: Tensor) -> Float[Tensor, "batch dim"]:
        [features] = tapped(model.encoder, self.names, views)
        with torch.autocast(views.device.type, enabled=False):
            return self.projector(at_least_float32(as_map(features))).flatten(1)

    def _logits(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
        return self.discriminator(features).squeeze(1)


@dataclass(frozen=True)
class NoiseContrastiveOptions(ObjectiveOptions):
    """Options of `NoiseContrastive` at deployment."""

    kind: ClassVar[type[Objective]] = NoiseContrastive
