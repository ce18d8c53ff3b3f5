"""A normalising flow learns the density of source features; target features move to it: TTTFlow."""

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

# A rectified map is exactly zero at many positions. There the density has no bound, and a scale
# without one would grow for as long as the flow is trained.
_LARGEST_LOG_SCALE = 2.0


def negative_log_likelihood(
    z: Float[Tensor, "batch c h w"], log_det: Float[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """−log p(x) by change of variables, z = f(x) standard normal; mean over images and dimensions.

    −log p(x) = ½ ‖z‖² + ½ D log 2π − log |det ∂z/∂x|, over D = c · h · w (TTTFlow, § 3).

    Args:
        z: What the flow makes of x.
        log_det: log |det ∂z/∂x| of each image.
    """
    dimensions = z[0].numel()
    energy = 0.5 * z.square().flatten(1).sum(1)
    return (energy - log_det).mean() / dimensions + 0.5 * math.log(2 * math.pi)


class Flow(TrainedOnCrops):
    """−log likelihood, per dimension, of a tapped map under a normalising flow.

    Before deployment the flow learns on a classifier that no gradient reaches; it is to be frozen
    and in evaluation mode. At deployment the encoder up to the tap learns to make target features
    likely. A transformer's tokens are a column of pixels. All is computed in at least float32.

    Args:
        model: Gives the channels of the map.
        preprocessing: Gives the size of the images.
        tap: A module's name or a stage's number from 1.
        couplings: Affine couplings, on the two colours of a checkerboard in turn.
        blocks: Residual blocks in the network of each coupling.
        width: Channels of these networks; 0 is as many as the map has.
        padding: Of the shifted crops before deployment, in pixels.

    Raises:
        InputError: a tap that the encoder does not have, or fewer than two couplings.
    """

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
        self.flow = RealNVP(channels, couplings, blocks, width or channels)

    def forward(self, model: Classifier, views: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, ""]:
        """The loss of a classifier's encoder on normalised images."""
        return self._loss(self._features(model, views))

    def source_loss(
        self, model: Classifier, views: Float[Tensor, "batch 3 h w"]
    ) -> Float[Tensor, ""]:
        """The flow's loss; the first batch also gives it the scale of each channel."""
        with torch.no_grad():
            features = self._features(model, views)
        if not self.flow.standardised:
            self.flow.standardise(features)
        return self._loss(features)

    def _features(self, model: Classifier, views: Tensor) -> Float[Tensor, "batch c h w"]:
        [features] = tapped(model.encoder, self.names, views)
        return at_least_float32(as_map(features))

    def _loss(self, features: Float[Tensor, "batch c h w"]) -> Float[Tensor, ""]:
        with torch.autocast(features.device.type, enabled=False):
            return negative_log_likelihood(*self.flow(features))


class RealNVP(nn.Module):
    """Standardised channels, then affine couplings (Dinh et al. 2017, § 3).

    It starts as the standardisation alone. That is fixed by one batch, not learned as TTTFlow's
    activation normalisation is: the scale of a channel of zeros would never stop to grow. What an
    affine layer between couplings could learn, the couplings' own shifts and scales can.
    """

    mean: Tensor
    std: Tensor
    standardised: Tensor

    def __init__(self, channels: int, couplings: int, blocks: int, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("std", torch.ones(1, channels, 1, 1))
        self.register_buffer("standardised", torch.tensor(False))
        self.couplings = nn.ModuleList(
            Coupling(channels, number % 2, blocks, width) for number in range(couplings)
        )

    def forward(
        self, x: Float[Tensor, "batch c h w"]
    ) -> tuple[Float[Tensor, "batch c h w"], Float[Tensor, " batch"]]:
        """Give z = f(x), and log |det ∂z/∂x| of each image."""
        _, _, height, width = x.shape
        z = (x - self.mean) / self.std
        log_det = -height * width * self.std.log().sum().expand(len(x))
        for coupling in self.couplings:
            z, log_scale = coupling(z)
            log_det = log_det + log_scale.flatten(1).sum(1)
        return z, log_det

    def inverse(self, z: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        """Give the x with f(x) = z."""
        for coupling in reversed(self.couplings):
            z = coupling.inverse(z)  # type: ignore[operator]
        return z * self.std + self.mean

    @torch.no_grad()
    def standardise(self, x: Float[Tensor, "batch c h w"]) -> None:
        """Take the mean and deviation of each channel, the same on all ranks.

        The deviation is at least a tenth of the channels' mean one, lest a channel that is dead in
        the source become the loudest in a target.
        """
        mean = gather(x.mean((2, 3))).mean(0)  # [c]
        square = gather(x.square().mean((2, 3))).mean(0)
        std = (square - mean.square()).clamp_min(0).sqrt()
        std = std.clamp_min(0.1 * std.mean()).clamp_min(1e-6)
        self.mean.copy_(mean[None, :, None, None])
        self.std.copy_(std[None, :, None, None])
        self.standardised.fill_(True)


class Coupling(nn.Module):
    """Scale and shift one colour of a checkerboard by what the other colour says."""

    def __init__(self, channels: int, colour: int, blocks: int, width: int):
        super().__init__()
        self.colour = colour
        # No batch norm, as elsewhere: an image's likelihood must not depend on the others.
        self.first = weight_norm(nn.Conv2d(channels, width, 3, padding=1))
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(blocks))
        self.last = nn.Conv2d(width, 2 * channels, kernel_size=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, x: Float[Tensor, "batch c h w"]
    ) -> tuple[Float[Tensor, "batch c h w"], Float[Tensor, "batch c h w"]]:
        """The changed map, and the logarithm of each position's scale."""
        log_scale, shift = self._affine(x)
        return x * log_scale.exp() + shift, log_scale

    def inverse(self, y: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        """The map that was changed to this one."""
        log_scale, shift = self._affine(y)
        return (y - shift) * (-log_scale).exp()

    def _affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both are zero where the map is not changed, and depend on nothing else."""
        rows, columns = (torch.arange(size, device=x.device) for size in x.shape[2:])
        changed = ((rows[:, None] + columns) % 2 == self.colour).to(x.dtype)  # [h, w]
        hidden = self.first(x * (1 - changed))
        for block in self.blocks:
            hidden = block(hidden)
        log_scale, shift = (self.last(relu(hidden)) * changed).chunk(2, dim=1)
        return _LARGEST_LOG_SCALE * log_scale.tanh(), shift


class ResidualBlock(nn.Module):
    """relu and convolution three times, 1x1, 3x3, 1x1; add the input."""

    def __init__(self, width: int):
        super().__init__()
        self.narrow = weight_norm(nn.Conv2d(width, width, kernel_size=1))
        self.wide = weight_norm(nn.Conv2d(width, width, 3, padding=1))
        self.last = weight_norm(nn.Conv2d(width, width, kernel_size=1))

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        """One residual step."""
        return x + self.last(relu(self.wide(relu(self.narrow(relu(x))))))


@dataclass(frozen=True)
class FlowOptions(ObjectiveOptions):
    """Options of `Flow` at deployment."""

    kind: ClassVar[type[Objective]] = Flow
