import itertools

import numpy as np
import pytest

from acclimate.report.intervals import paired_interval


def slow_samples(gain, groups, draws, seed):
    """The bootstrap as it is explained: draw images one by one, pool their answers."""
    generator = np.random.default_rng(seed)
    images = sorted(set(groups))
    samples = []
    for _ in range(draws):
        pooled = []
        for image in generator.choice(images, size=len(images)):
            pooled += [g for g, group in zip(gain, groups) if group == image]
        samples.append(sum(pooled) / len(pooled))
    return samples


@pytest.mark.parametrize("ragged", [False, True])
def test_agrees_with_a_slow_loop(ragged):
    generator = np.random.default_rng(1)
    groups = generator.integers(0, 20, 40) if ragged else np.tile(np.arange(20), 2)
    first, second = generator.random(40) < 0.8, generator.random(40) < 0.6
    difference, low, high = paired_interval(first, second, groups=groups)
    gain = first.astype(int) - second.astype(int)
    slow = np.quantile(slow_samples(gain.tolist(), groups.tolist(), 2000, 0), [0.025, 0.975])
    assert difference == pytest.approx(gain.mean())
    np.testing.assert_allclose([low, high], slow, atol=0.02)  # ~3 errors of 2000 draws' quantile


def test_agrees_with_all_resamples_of_four_images():
    first = np.array([1, 1, 0, 1], bool)
    second = np.array([0, 1, 1, 0], bool)
    gain = [1, 0, -1, 1]
    every = [np.mean([gain[i] for i in drawn]) for drawn in itertools.product(range(4), repeat=4)]
    for level in (0.5, 0.8):
        limits = np.quantile(every, [(1 - level) / 2, (1 + level) / 2])
        result = paired_interval(first, second, groups=np.arange(4), level=level)
        np.testing.assert_allclose(result[1:], limits)


def test_resamples_images_not_answers():
    generator = np.random.default_rng(0)
    first, second = generator.random(200) < 0.7, generator.random(200) < 0.5
    once = paired_interval(first, second, groups=np.arange(200))
    # The same answers nine times over are no new evidence: the interval must not shrink.
    nine = paired_interval(np.tile(first, 9), np.tile(second, 9), groups=np.tile(np.arange(200), 9))
    np.testing.assert_allclose(once, nine)


def test_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(2)
    hits = 0
    for seed in range(200):
        hard = generator.random(150)[:, None]  # shared by all answers to an image
        first = (0.6 * generator.random((150, 4)) + 0.4 * hard < 0.6).ravel()
        second = (0.6 * generator.random((150, 4)) + 0.4 * hard < 0.5).ravel()
        groups = np.repeat(np.arange(150), 4)
        _, low, high = paired_interval(first, second, groups=groups, seed=seed, draws=1000)
        hits += low <= TRUE_GAIN <= high
    assert 180 <= hits <= 198  # 190 expected, standard deviation 3


def share_below(limit):
    """P(0.6 U + 0.4 V < limit) for independent uniform U and V, by fine summation over V."""
    v = (np.arange(100_000) + 0.5) / 100_000
    return np.clip((limit - 0.4 * v) / 0.6, 0, 1).mean()


TRUE_GAIN = share_below(0.6) - share_below(0.5)


def test_equal_methods_differ_by_nothing():
    right = np.random.default_rng(0).random(50) < 0.5
    assert paired_interval(right, right, groups=np.arange(50)) == (0.0, 0.0, 0.0)


def test_the_seed_decides_the_draws():
    generator = np.random.default_rng(0)
    first, second = generator.random((2, 300)) < 0.5
    groups = np.tile(np.arange(100), 3)
    one, again, other = (
        paired_interval(first, second, groups=groups, seed=seed, draws=200) for seed in (1, 1, 2)
    )
    assert one == again != other


@pytest.mark.parametrize("lengths", [(0, 0, 0), (3, 2, 3), (3, 3, 2)])
def test_refuses_answers_that_do_not_pair(lengths):
    first, second, groups = (np.zeros(n, bool) for n in lengths)
    with pytest.raises(ValueError, match="as many answers"):
        paired_interval(first, second, groups=groups)
