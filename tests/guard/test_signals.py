import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.guard.signals import (
    FEATURES,
    HIGHEST,
    LOWEST,
    Recent,
    blank,
    features,
    fewer_classes,
    first_of_equals,
    log_odds,
    signals,
)

LOGITS = st.lists(st.lists(st.floats(-30, 30), min_size=3, max_size=3), min_size=1, max_size=8)


def softmax(row):
    exps = [math.exp(z - max(row)) for z in row]
    return [e / sum(exps) for e in exps]


def test_log_odds_of_known_logits():
    found = log_odds(torch.tensor([[3.0, 0.0], [0.0, 0.0], [100.0, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(found, torch.tensor([3.0, 0.0, HIGHEST, 1.0]))
    assert log_odds(torch.zeros(1, 5000)).item() == LOWEST


@settings(deadline=None, max_examples=50)
@given(LOGITS)
def test_signals_are_the_plain_loop(rows):
    frozen = torch.tensor(rows, dtype=torch.float64)
    adapted = frozen.flip(1)
    found = signals(frozen, adapted)
    for row, own in zip(rows, found.tolist()):
        first, second = softmax(row), softmax(row[::-1])
        for p, value in zip((first, second), own[:2]):
            odds = math.log(max(p) / max(1 - max(p), 1e-12))
            assert value == pytest.approx(min(max(odds, LOWEST), HIGHEST), abs=1e-4)
        same = row.index(max(row)) == row[::-1].index(max(row))
        assert own[2] == float(same)
        assert own[3:] == pytest.approx(first + second)


def slow_features(frozen, adapted, recent):
    """The eleven numbers of one image."""
    k = (len(recent) - 3) // 2
    first, second = recent[3 : 3 + k], recent[3 + k :]
    yf, yg = frozen.index(max(frozen)), adapted.index(max(adapted))

    def entropy(p):
        return -sum(x * math.log(x) for x in p if x)

    def odds(row):
        p = max(softmax(row))
        return min(max(math.log(p / max(1 - p, 1e-12)), LOWEST), HIGHEST)

    return [
        odds(frozen),
        odds(adapted),
        recent[0],
        recent[1],
        math.log(recent[2] + 0.05),
        entropy(first),
        entropy(second),
        *(math.log(p[y] + 0.02) for y in (yf, yg) for p in (second, first)),
    ]


def test_features_are_the_plain_loop():
    generator = torch.Generator().manual_seed(0)
    frozen, adapted = (torch.randn(20, 4, generator=generator).double() for _ in range(2))
    each = signals(frozen, adapted)
    recent = each.mean(0)
    found = features(each, recent)
    assert found.shape == (20, len(FEATURES))
    rows = zip(frozen.tolist(), adapted.tolist())
    slow = [slow_features(f, a, recent.tolist()) for f, a in rows]
    torch.testing.assert_close(found, torch.tensor(slow, dtype=torch.float64))


def test_an_average_is_the_plain_loop():
    recent = Recent.of(torch.tensor([1.0, 3.0]), images=4)
    total, weight, squares = [4.0, 12.0], 4.0, 4.0
    generator = torch.Generator().manual_seed(1)
    for size in (3, 1, 8):
        values = torch.rand(size, 2, generator=generator)
        counts = (torch.arange(size) % 3 > 0).float()
        recent.add(values, counts, half_life=5.0)
        n = float(counts.sum())
        kept = 0.5 ** (n / 5.0)
        total = [kept * t for t in total]
        for row, count in zip(values.tolist(), counts.tolist()):
            total = [t + count * v for t, v in zip(total, row)]
        weight, squares = kept * weight + n, kept**2 * squares + n
    assert recent.mean.tolist() == pytest.approx([t / weight for t in total])
    assert float(recent.images) == pytest.approx(weight**2 / squares)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.floats(1, 500))
def test_an_average_stays_among_its_values(sizes, half_life):
    recent = Recent.of(torch.tensor([0.25]), images=16)
    for number, size in enumerate(sizes):
        values = torch.full((size, 1), float(number % 2))
        recent.add(values, torch.ones(size), half_life)
        assert -1e-6 <= float(recent.mean) <= 1 + 1e-6
        assert 0 < float(recent.images) <= 16 + sum(sizes) + 1e-3


def test_a_batch_without_images_that_count_changes_nothing():
    recent = Recent.of(torch.tensor([0.25]), images=16)
    recent.add(torch.ones(5, 1), torch.zeros(5), 64)
    assert float(recent.mean) == 0.25 and float(recent.weight) == 16


def test_a_collapsed_model_answers_with_fewer_classes():
    many, one = torch.full((4,), 0.25), torch.tensor([1.0, 0.0, 0.0, 0.0])
    own = torch.zeros(3)
    assert float(fewer_classes(torch.cat([own, many, one]))) == pytest.approx(0.25)
    assert float(fewer_classes(torch.cat([own, one, many]))) == pytest.approx(4)
    assert float(fewer_classes(torch.cat([own, many, many]))) == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_blank_images_are_found(dtype):
    images = torch.zeros(5, 3, 8, 8)
    images[1] = 1.0
    images[2] = torch.tensor([0.2, 0.5, 0.9])[:, None, None]
    images[3, :, :, :4] = 0.5
    images[4] = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = (images * 255).to(dtype) if dtype == torch.uint8 else images
    assert blank(images).tolist() == [True, True, True, False, False]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.booleans())
def test_repeated_images_are_those_of_the_plain_loop(which, as_bytes):
    several = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    several[1] = several[0]
    several[1, 0, 3, 3] += 0.25  # one pixel differs
    images = several[which]
    images = (images * 255).to(torch.uint8) if as_bytes else images
    slow = [next(j for j in range(i + 1) if which[j] == which[i]) for i in range(len(which))]
    assert first_of_equals(images).tolist() == slow


def test_images_that_differ_by_one_value_are_two():
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    images[1:] = images[0]
    images[1, 0, 5, 7] ^= 1
    assert first_of_equals(images).tolist() == [0, 1, 0]
