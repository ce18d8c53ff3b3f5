"""Whose statistics batch norm uses in the answer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def batch_statistics(
    norms: Sequence[_BatchNorm], source: Sequence[tuple[Tensor, Tensor]], prior: float
) -> Iterator[None]:
    """Within it, batch-norm layers in evaluation mode normalise by their input's statistics.

    These are blended with the source's as n : prior, n the number of images (Schneider et al. 2020,
    *Improving robustness against common corruptions by covariate shift adaptation*). The layers'
    running statistics are overwritten.

    Args:
        norms: The layers.
        source: Each layer's source mean and variance.
        prior: The weight of the source's statistics, in images.
    """
    handles = [
        norm.register_forward_pre_hook(_blend(mean, variance, prior))
        for norm, (mean, variance) in zip(norms, source)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _blend(
    source_mean: Tensor, source_variance: Tensor, prior: float
) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (x,) = inputs
        share = prior / (prior + len(x))
        # Batch norm's own kernel: 28 times faster than var_mean on channels_last bf16. It also
        # updates running averages, for which it gets throw-away copies.
        mean, variance = torch.batch_norm_update_stats(
            x, source_mean.clone(), source_variance.clone(), 1.0
        )
        norm.get_buffer("running_mean").copy_(mean.lerp(source_mean, share))
        norm.get_buffer("running_var").copy_(variance.lerp(source_variance, share))

    return hook
