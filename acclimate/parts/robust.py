"""Batch norm for streams whose batches are small or look alike: RoTTA's and NOTE's."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from acclimate.parts.checks import not_negative
from acclimate.parts.normalisation import AdaptiveBatchNorm, RunningStatistics
from acclimate.runtime.precision import at_least_float32


@dataclass(frozen=True)
class RobustStatistics(RunningStatistics):
    """Running averages that enter the steps too: updated first, then used (RoTTA's RBN).

    Yuan et al. 2023, *Robust test-time adaptation in dynamic scenarios*, § 3.1:
    μ ← (1 − α) μ + α μ_batch, likewise the biased variance.
    """

    momentum: float | None = 0.05
    """α, share of the views' statistics in the averages; None takes each layer's own."""

    def learn(self, norm: AdaptiveBatchNorm, x: Tensor) -> Tensor:
        """By the averages, once the input's own statistics have entered them."""
        precise = at_least_float32(x)
        kept = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        if torch.is_grad_enabled():
            variance, mean = torch.var_mean(precise, _all_but_channels(x), correction=0)
        else:  # as for a teacher: batch norm's own kernel, which is faster and has no gradient
            waste = torch.empty_like(kept[0]), torch.empty_like(kept[1])
            mean, variance = torch.batch_norm_update_stats(x, *waste, 1.0)
        share = _momentum(self, norm)
        mean, variance = kept[0].lerp(mean, share), kept[1].lerp(variance, share)
        if not norm.control.apart:
            kept[0].copy_(mean.detach())
            kept[1].copy_(variance.detach())
        return _normalised(norm, precise, _along(x, mean), _along(x, variance)).to(x.dtype)


@dataclass(frozen=True)
class InstanceAware(RunningStatistics):
    """Statistics corrected for each image where it deviates significantly (NOTE's IABN).

    Gong et al. 2022, *NOTE: Robust continual test-time adaptation against temporal correlation*,
    § 3.1. A network must have been trained with it.
    """

    momentum: float | None = 0.01
    """Share of the views' statistics in the averages; None takes each layer's own."""
    width: float = 4.0
    """k, the deviation that is taken for chance, in standard errors."""

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        super().check()
        not_negative("width", self.width)

    def learn(self, norm: AdaptiveBatchNorm, x: Tensor) -> Tensor:
        """By the input's own statistics, which enter the averages, with each image's correction."""
        if math.prod(x.shape[2:]) == 1:  # an image has a single value
            return super().learn(norm, x)
        precise = at_least_float32(x)
        variance, mean = torch.var_mean(precise, _all_but_channels(x), correction=1)
        if not norm.control.apart:
            share = _momentum(self, norm)
            norm.get_buffer("running_mean").lerp_(mean.detach(), share)
            norm.get_buffer("running_var").lerp_(variance.detach(), share)
        return self._corrected(norm, precise, mean, variance).to(x.dtype)

    def answer(self, norm: AdaptiveBatchNorm, x: Tensor) -> Tensor:
        """By the averages, with each image's correction."""
        if math.prod(x.shape[2:]) == 1:
            return super().answer(norm, x)
        kept = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        return self._corrected(norm, at_least_float32(x), *kept).to(x.dtype)

    def _corrected(
        self, norm: AdaptiveBatchNorm, x: Tensor, mean: Tensor, variance: Tensor
    ) -> Tensor:
        """Normalise by statistics that are moved towards each image's, beyond what is chance."""
        places = tuple(range(2, x.ndim))
        count = math.prod(x.shape[2:])
        mean, variance = _along(x, mean), _along(x, variance)
        own_variance, own_mean = torch.var_mean(x, places, correction=1, keepdim=True)
        width = self.width * (variance + norm.eps)  # of a chi-squared distribution
        mean = mean + _beyond(own_mean - mean, self.width * ((variance + norm.eps) / count).sqrt())
        variance = variance + _beyond(own_variance - variance, width * math.sqrt(2 / (count - 1)))
        return _normalised(norm, x, mean, variance.clamp_min(0))


def _momentum(policy: RunningStatistics, norm: AdaptiveBatchNorm) -> float:
    """The share that was set, or the layer's own; of a cumulative average, which has none, ours."""
    wanted = (policy.momentum, norm.momentum, type(policy).momentum)
    return next(share for share in wanted if share is not None)


def _beyond(deviation: Tensor, limit: Tensor) -> Tensor:
    """The deviation beyond a limit on either side; 0 within (soft shrinkage)."""
    return (deviation.abs() - limit).clamp_min(0).copysign(deviation)


def _all_but_channels(x: Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _along(x: Tensor, values: Tensor) -> Tensor:
    """Values of channels, to broadcast over an input."""
    return values.view(1, -1, *[1] * (x.ndim - 2))


def _normalised(norm: AdaptiveBatchNorm, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """(x − μ) / √(σ² + ε) · w + b as one product and one sum of the input's size."""
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * _along(x, norm.weight)
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + _along(x, norm.bias)
    return torch.addcmul(shift, x, scale)
