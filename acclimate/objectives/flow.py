"""Likelihood of features under a normalising flow trained on source features: TTTFlow."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.nn.utils.parametrizations import weight_norm

from acclimate.backbones import Classifier
from acclimate.backbones.stages import as_map
from acclimate.backbones.taps import tapped
from acclimate.errors import InputError
from acclimate.objectives.objective import Objective, ObjectiveOptions, TrainedOnCrops
from acclimate.objectives.tapped_shapes import tapped_shapes
from acclimate.preprocessing import Preprocessing
from acclimate.runtime.precision import at_least_float32
from acclimate.runtime.ranks import gather

# After a ReLU many features are exactly zero. The density there is unbounded, so without this
# limit the scale would grow for as long as the flow is trained.
_LARGEST_LOG_SCALE = 2.0


def negative_log_likelihood(
    z: Float[Tensor, "batch c h w"], log_det: Float[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Negative log likelihood of x under a flow z = f(x), with z standard normal (TTTFlow, § 3).

    −log p(x) = ½ ‖z‖² + ½ D log 2π − log |det ∂z/∂x| with D = c · h · w, divided by D; a mean over
    images.

    ```python
    z, log_det = flow(features)
    loss = negative_log_likelihood(z, log_det)
    ```

    Args:
        z: Output z = f(x) of the flow.
        log_det: Log determinant log |det ∂z/∂x| of each image.
    """
    dimensions = z[0].numel()
    energy = 0.5 * z.square().flatten(1).sum(1)
    return (energy - log_det).mean() / dimensions + 0.5 * math.log(2 * math.pi)


class Flow(TrainedOnCrops):
    """Negative log likelihood, per dimension, of a feature map under a normalising flow.

    Before deployment the flow is trained on the features of the classifier, which must be frozen
    and in evaluation mode and receives no gradient. At deployment the encoder up to the tap is
    trained to make target features likely. The tokens of a transformer are treated as a column of
    pixels. The loss is computed in at least float32.

    ```python
    objective = Flow(model, preprocessing, tap=2)
    objective.source_loss(model, preprocessing.normalize(source_images)).backward()
    ```

    Args:
        model: The classifier; its encoder determines the number of channels.
        preprocessing: Preprocessing of its images; only their size is used.
        tap: Name of a module, or index of a stage, counted from 1.
        couplings: Number of affine couplings, on alternating colours of a checkerboard.
        blocks: Number of residual blocks in the network of each coupling.
        width: Channels of these networks; 0 means as many as the feature map has.
        padding: Largest shift of the crops before deployment, in pixels.

    Raises:
        InputError: a tap that the encoder does not have, or fewer than two couplings.
    """

    replayable = True

    names: list[str]

    def __init__(
        self,
        model: Classifier,
        preprocessing: Preprocessing,
        *,
        tap: str | int = 2,
        couplings: int = 3,
        blocks: int = 2,
        width: int = 0,
        padding: int = 4,
    ):
        super().__init__()
        if couplings < 2:
            raise InputError(
                f"a flow needs at least two couplings to change every position, not {couplings}."
            )
        self.padding = padding
        self.names, [(channels, _, _)] = tapped_shapes(model, preprocessing, [tap])
        self.flow: RealNVP = RealNVP(channels, couplings, blocks, width or channels)

    def forward(self, model: Classifier, views: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, ""]:
        """The loss of the classifier's encoder on normalised images."""
        return self._loss(self._features(model, views))

    def source_loss(
        self, model: Classifier, views: Float[Tensor, "batch 3 h w"]
    ) -> Float[Tensor, ""]:
        """The loss that trains the flow. The first batch also sets the scale of each channel."""
        with torch.no_grad():
            features = self._features(model, views)
        # On a GPU it is not asked whether that was done: the answer would be waited for.
        if features.device.type != "cpu" or not self.flow.standardised:
            self.flow.standardise(features)
        return self._loss(features)

    def _features(self, model: Classifier, views: Tensor) -> Float[Tensor, "batch c h w"]:
        [features] = tapped(model.encoder, self.names, views)
        return at_least_float32(as_map(features))

    def _loss(self, features: Float[Tensor, "batch c h w"]) -> Float[Tensor, ""]:
        with torch.autocast(features.device.type, enabled=False):
            return negative_log_likelihood(*self.flow(features))


class RealNVP(nn.Module):
    """Standardisation of each channel, then affine couplings (Dinh et al. 2017, § 3).

    All couplings start as the identity. One batch fixes the standardisation. TTTFlow learns its
    activation normalisation instead, but then the scale of a channel of zeros would keep growing.
    Affine layers between the couplings are not needed: the couplings have shifts and scales.
    """

    mean: Tensor
    std: Tensor
    standardised: Tensor

    def __init__(self, channels: int, couplings: int, blocks: int, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("std", torch.ones(1, channels, 1, 1))
        self.register_buffer("standardised", torch.tensor(False))
        self.couplings: nn.ModuleList = nn.ModuleList(
            Coupling(channels, index % 2, blocks, width) for index in range(couplings)
        )

    def forward(
        self, x: Float[Tensor, "batch c h w"]
    ) -> tuple[Float[Tensor, "batch c h w"], Float[Tensor, " batch"]]:
        """Compute z = f(x), and log |det ∂z/∂x| of each image."""
        _, _, height, width = x.shape
        z = (x - self.mean) / self.std
        log_det = -height * width * self.std.log().sum().expand(len(x))
        for coupling in self.couplings:
            z, log_scale = coupling(z)
            log_det = log_det + log_scale.flatten(1).sum(1)
        return z, log_det

    def inverse(self, z: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        """Compute the x with f(x) = z."""
        for coupling in reversed(self.couplings):
            z = coupling.inverse(z)  # type: ignore[operator]
        return z * self.std + self.mean

    @torch.no_grad()
    def standardise(self, x: Float[Tensor, "batch c h w"]) -> None:
        """Set the mean and standard deviation of each channel, the same on all ranks, once.

        A further call changes nothing, which is decided on the device. The standard deviation is at
        least a tenth of its mean over channels. Otherwise a channel that is constant on the source
        could dominate the loss on a target.
        """
        mean = gather(x.mean((2, 3))).mean(0)  # [c]
        square = gather(x.square().mean((2, 3))).mean(0)
        std = (square - mean.square()).clamp_min(0).sqrt()
        std = std.clamp_min(0.1 * std.mean()).clamp_min(1e-6)
        for own, found in ((self.mean, mean), (self.std, std)):
            own.copy_(torch.where(self.standardised, own, found[None, :, None, None]))
        self.standardised.fill_(True)


class Coupling(nn.Module):
    """Affine coupling: scale and shift one colour of a checkerboard, given the other colour."""

    def __init__(self, channels: int, colour: int, blocks: int, width: int):
        super().__init__()
        self.colour = colour
        # No batch norm here: the likelihood of an image must not depend on other images.
        self.first: nn.Module = weight_norm(nn.Conv2d(channels, width, 3, padding=1))
        self.blocks: nn.ModuleList = nn.ModuleList(ResidualBlock(width) for _ in range(blocks))
        self.last: nn.Conv2d = nn.Conv2d(width, 2 * channels, kernel_size=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, x: Float[Tensor, "batch c h w"]
    ) -> tuple[Float[Tensor, "batch c h w"], Float[Tensor, "batch c h w"]]:
        """The transformed map, and the log scale at each position."""
        log_scale, shift = self._affine(x)
        return x * log_scale.exp() + shift, log_scale

    def inverse(self, y: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        """The map that `forward` transforms to this one."""
        log_scale, shift = self._affine(y)
        return (y - shift) * (-log_scale).exp()

    def _affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log scale and shift: zero at the fixed positions, and a function of these alone."""
        rows, columns = (torch.arange(size, device=x.device) for size in x.shape[2:])
        changed = ((rows[:, None] + columns) % 2 == self.colour).to(x.dtype)  # [h, w]
        hidden = self.first(x * (1 - changed))
        for block in self.blocks:
            hidden = block(hidden)
        log_scale, shift = (self.last(relu(hidden)) * changed).chunk(2, dim=1)
        return _LARGEST_LOG_SCALE * log_scale.tanh(), shift


class ResidualBlock(nn.Module):
    """Residual block of three ReLUs, each followed by a convolution: 1x1, 3x3, 1x1."""

    def __init__(self, width: int):
        super().__init__()
        self.narrow: nn.Module = weight_norm(nn.Conv2d(width, width, kernel_size=1))
        self.wide: nn.Module = weight_norm(nn.Conv2d(width, width, 3, padding=1))
        self.last: nn.Module = weight_norm(nn.Conv2d(width, width, kernel_size=1))

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        """Apply the block."""
        return x + self.last(relu(self.wide(relu(self.narrow(relu(x))))))


@dataclass(frozen=True)
class FlowOptions(ObjectiveOptions):
    """Options of `Flow` at deployment.

    ```python
    AdapterSettings(steps=20, objective=FlowOptions(), update=Adam(1e-5))
    ```
    """

    kind: ClassVar[type[Objective]] = Flow
