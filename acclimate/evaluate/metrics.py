"""Metrics of answers."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def expected_calibration_error(
    confidence: Float[Tensor, " n"], correct: Bool[Tensor, " n"], bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy over equal-width bins (Guo et al. 2017, Eq. 3).

    Args:
        confidence: The largest softmax probability of each image, 0..1.
        correct: Whether the answer was right.
        bins: Number of bins.

    Returns:
        0..1.
    """
    which = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    gaps.index_add_(0, which, correct.double() - confidence.double())
    return gaps.abs().sum().item() / len(confidence)
