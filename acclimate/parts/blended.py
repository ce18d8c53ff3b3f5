"""Batch norm by a fixed blend of two statistics, the source's and the input's (MEMO, α-BN)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from acclimate.parts.checks import share


@dataclass(frozen=True)
class BlendedStatistics:
    """The source's statistics, blended with those of the input by a fixed share, always.

    μ = (1 − s) μ_source + s μ_input, likewise the variance, of which the input's is unbiased. In
    steps, too, whose gradient takes the statistics for constants, and however many images the
    input has (MEMO, Zhang et al. 2022, § 4.1, for batch norm). Of a single value in a channel no
    variance is known: the source's stays.
    """

    share: float = 1 / 17
    """s, share of the input's statistics; MEMO's is 1/(N + 1) with N = 16."""
    uses_batch: ClassVar[bool] = True
    runs: ClassVar[bool] = False

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        share("share", self.share)

    def learn(self, norm: _BatchNorm, x: Tensor) -> Tensor:
        """By the blend; no gradient goes through the statistics."""
        source = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        # Batch norm's own kernel; what it would add to running averages is thrown away.
        waste = torch.empty_like(source[0]), torch.empty_like(source[1])
        mean, variance = torch.batch_norm_update_stats(x.detach(), *waste, 1.0)
        mean = source[0].lerp(mean, self.share)
        count = x.numel() // x.shape[1]
        if count > 1:  # the kernel's variance is biased
            variance = source[1].lerp(variance * (count / (count - 1)), self.share)
        else:
            variance = source[1]
        return batch_norm(x, mean, variance, norm.weight, norm.bias, False, 0.0, norm.eps)

    def answer(self, norm: _BatchNorm, x: Tensor) -> Tensor:
        """By the blend, as in steps."""
        return self.learn(norm, x)
