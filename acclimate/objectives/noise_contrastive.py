"""Noise-contrastive estimation of the density of source features: NC-TTT."""

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
from acclimate.randomness import Key
from acclimate.runtime.constants import on_device
from acclimate.runtime.precision import at_least_float32


def in_distribution_probability(
    noise: Float[Tensor, "batch dim"], sigma_in: float, sigma_out: float
) -> Float[Tensor, " batch"]:
    """Posterior probability that noise is from the weaker of two isotropic Gaussians (NC-TTT, § 3).

    By Bayes' rule with equal priors, for noise ε of dimension D:
    p(in | ε) = sigmoid( ½ (1/σ_o² − 1/σ_s²) ‖ε‖² − D log(σ_s/σ_o) ).

    ```python
    in_distribution_probability(0.015 * torch.randn(8, 64), 0.015, 0.1)  # close to 1
    ```

    Args:
        noise: Noise ε that was added to each feature.
        sigma_in: Standard deviation σ_s of the noise for in-distribution features.
        sigma_out: Standard deviation σ_o of the noise for out-of-distribution features, above σ_s.

    Returns:
        Probabilities in 0..1, in at least float32.
    """
    squared = at_least_float32(noise).square().sum(1)
    precision = 0.5 * (sigma_out**-2 - sigma_in**-2)
    return torch.sigmoid(precision * squared - noise.shape[1] * math.log(sigma_in / sigma_out))


class NoiseContrastive(TrainedOnCrops):
    """A discriminator of noise levels on projected features; at deployment, the loss −log p(in).

    The discriminator D outputs the logit of p(in). Before deployment it is trained to predict
    p(in) of features with added noise. At deployment the encoder is trained to make target
    features, without noise, probable: the loss is the mean of −log sigmoid(D(z)). The feature map
    is flattened, so the image size is fixed. Projector and discriminator compute in float32: the
    rounding error of bf16 exceeds σ_s.

    ```python
    objective = NoiseContrastive(model, preprocessing, tap=2)
    loss = objective(model, preprocessing.normalize(images))
    ```

    Args:
        model: The classifier; its encoder determines the number of channels.
        preprocessing: Preprocessing of its images; only their size is used.
        tap: Name of a module, or index of a stage, counted from 1.
        sigma_in: Standard deviation σ_s of the weak noise; the default of the released code.
        sigma_out: Standard deviation σ_o of the strong noise; the default of the released code.
        projection: Output channels of the 1x1 projector. 0 means three times those of the feature
            map, as in the released code: 1,536 on the second stage of a ResNet-50.
        hidden: Number of units of the discriminator's only hidden layer.
        padding: Largest shift of the crops before deployment, in pixels.

    Raises:
        InputError: a tap that the encoder does not have, or standard deviations that are not
            0 < σ_s < σ_o.
    """

    min_images = 2  # the discriminator has batch norm
    replayable = True

    names: list[str]

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
                f"in-distribution noise must be weaker than out-of-distribution noise: "
                f"0 < sigma_in < sigma_out, not {sigma_in} and {sigma_out}."
            )
        self.sigma_in: float = sigma_in
        self.sigma_out: float = sigma_out
        self.padding = padding
        self.names, [(channels, height, width)] = tapped_shapes(model, preprocessing, [tap])
        projection = projection or 3 * channels
        self.projector: nn.Conv2d = nn.Conv2d(channels, projection, kernel_size=1)
        self.discriminator: nn.Sequential = nn.Sequential(
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
        self, images: Float[Tensor, "batch 3 h w"], key: Key, index: Int64[Tensor, " batch"]
    ) -> tuple[Tensor, ...]:
        """Shifted crops, and the key and image indices that the noise is drawn from."""
        (crops,) = super().source_draw(images, key, index)
        noise_key = randomness.key(key, "feature noise")
        if not isinstance(noise_key, randomness.MovingKey):
            # Made on the device: a copy from the host would wait for it.
            noise_key = randomness.MovingKey(noise_key, index.device)
        return crops, noise_key.value, index

    def source_loss(
        self,
        model: Classifier,
        views: Float[Tensor, "batch 3 h w"],
        key: Int64[Tensor, ""],
        index: Int64[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        """Cross entropy of the discriminator on each feature with weak and with strong noise."""
        features = self._features(model, views)  # [batch, dim]
        batch, dim = features.shape
        noise = randomness.normal(key, index, 2 * dim).view(batch, 2, dim)
        noise *= on_device((self.sigma_in, self.sigma_out), noise.device)[:, None]
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
    """Options of `NoiseContrastive` at deployment.

    ```python
    AdapterSettings(steps=20, objective=NoiseContrastiveOptions(), update=Adam(1e-5))
    ```
    """

    kind: ClassVar[type[Objective]] = NoiseContrastive
