"""Confidence intervals of the difference between two methods."""

import numpy as np
from jaxtyping import Bool, Int


def paired_interval(
    first: Bool[np.ndarray, " answers"],
    second: Bool[np.ndarray, " answers"],
    *,
    groups: Int[np.ndarray, " answers"],
    seed: int = 0,
    draws: int = 10_000,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Difference in accuracy, first minus second, with a paired bootstrap interval.

    The unit that is resampled is the group: the answers to one image under all corruptions
    stand or fall together, so they are drawn together.

    Groups with the same gain and size are interchangeable. A draw of all groups with
    replacement is therefore one multinomial draw of how often each *kind* of group occurs: the
    same distribution, in memory of ``draws × kinds`` instead of ``draws × images``.

    Args:
        first: Whether each answer of the first method was right.
        second: Whether the second method was right, on the same answers.
        groups: The image that each answer belongs to.
        seed: Seed of the bootstrap's own generator.
        draws: Bootstrap samples.
        level: Share of the samples between the two limits (percentile interval; Efron 1979).

    Returns:
        The difference and its lower and upper limit, as fractions.

    Raises:
        ValueError: no answers, or lengths that differ.
    """
    first, second, groups = np.asarray(first), np.asarray(second), np.asarray(groups)
    if first.ndim != 1 or not first.shape == second.shape == groups.shape or not first.size:
        raise ValueError(
            f"a paired interval needs as many answers of each method as groups, and at least one; "
            f"got {first.shape}, {second.shape} and {groups.shape}."
        )
    gain = first.astype(np.int64) - second.astype(np.int64)
    _, group = np.unique(groups, return_inverse=True)
    gains = np.bincount(group, weights=gain)  # [images]: a whole number each
    sizes = np.bincount(group)
    kinds, frequency = np.unique(np.stack([gains, sizes]), axis=1, return_counts=True)
    times = np.random.default_rng(seed).multinomial(len(sizes), frequency / len(sizes), size=draws)
    samples = (times @ kinds[0]) / (times @ kinds[1])  # [draws]
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(gain.mean()), float(low), float(high)
