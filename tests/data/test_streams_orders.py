"""What each order of arrival claims."""

import math
from collections import Counter, defaultdict
from itertools import groupby, pairwise

import numpy as np
import pytest
import torch
from arrivals import DARK, NOISE, SHIFTS, arrived, data, same
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.data import Shift, corrupt, streams
from acclimate.data.streams import CLEAN
from acclimate.data.streams.labelled import draw_slots
from acclimate.randomness import key, permutation

HILL = [1, 2, 3, 4, 5, 4, 3, 2, 1]


counts, seeds = st.integers(1, 30), st.integers(0, 2**63)
few = settings(max_examples=15, deadline=None)


# Every image exactly once, where promised.


def per_shift(stream):
    found = defaultdict(list)
    for number, shift in zip(*arrived(stream)[1:]):
        found[shift].append(number)
    return found


@few
@given(count=counts, seed=seeds)
def test_every_image_comes_once(count, seed):
    images, labels = data(count)
    for stream in (
        streams.shuffled(images, seed=seed),
        streams.class_correlated(images, labels, seed=seed),
        streams.growing_noise(images, seed=seed),
    ):
        assert sorted(arrived(stream)[1]) == list(range(count))
    numbers = arrived(streams.label_shifted(images, labels, seed=seed))[1]
    assert len(set(numbers)) == len(numbers)


@few
@given(count=counts, seed=seeds)
def test_every_image_comes_once_under_each_shift(count, seed):
    images, _ = data(count)
    for order in (streams.continual, streams.mixed):
        found = per_shift(order(images, SHIFTS, seed=seed))
        assert set(found) == set(SHIFTS)
        assert all(sorted(numbers) == list(range(count)) for numbers in found.values())
    found = per_shift(streams.recurring(images, SHIFTS, rounds=3, seed=seed))
    assert all(sorted(numbers) == sorted([*range(count)] * 3) for numbers in found.values())


@few
@given(
    count=st.integers(1, 60),
    seed=seeds,
    concentration=st.floats(1e-6, 1e6),
    slots=st.integers(1, 50),
    classes=st.integers(1, 9),
)
def test_correlation_keeps_every_image(count, seed, concentration, slots, classes):
    stream = streams.class_correlated(
        *data(count, classes), concentration=concentration, slots=slots, seed=seed
    )
    assert sorted(arrived(stream)[1]) == list(range(count))


# What each order claims.


def test_continual_is_one_shift_after_another_each_in_its_own_order():
    stream = streams.continual(data(10)[0], SHIFTS, batch=4)
    _, numbers, shifts = arrived(stream)
    assert shifts == [shift for shift in SHIFTS for _ in range(10)]
    assert len({tuple(numbers[start : start + 10]) for start in (0, 10, 20)}) == 3


def test_batches_straddle_shifts():
    batches = list(streams.continual(data(10)[0], SHIFTS, batch=4))
    assert batches[2].shifts == (NOISE, NOISE, CLEAN, CLEAN)


def test_recurring_begins_as_continual_and_comes_back_in_another_order():
    images, _ = data(20)
    whole = arrived(streams.recurring(images, SHIFTS, rounds=4, seed=1))
    once = arrived(streams.continual(images, SHIFTS, seed=1))
    assert same(tuple(part[:60] for part in whole), once)
    assert whole[2] == once[2] * 4
    rounds = [whole[1][start : start + 60] for start in range(0, 240, 60)]
    assert len(set(map(tuple, rounds))) == 4
    look = {}
    for image, number, shift in zip(*whole):
        assert torch.equal(look.setdefault((number, shift), image), image)


def test_mixed_is_one_random_order_of_all_pairs():
    images, _ = data(400)
    _, numbers, shifts = arrived(streams.mixed(images, SHIFTS))
    # In each stretch of 300 all shifts have about a third: a standard deviation is 8.
    for start in range(0, 1200, 300):
        assert all(60 < n < 140 for n in Counter(shifts[start : start + 300]).values())
    assert len(set(zip(numbers, shifts))) == 1200


@few
@given(count=st.integers(1, 60), seed=seeds, each_step=st.booleans())
def test_gradual_climbs_and_falls(count, seed, each_step):
    names = ["contrast", "brightness"]
    stream = streams.gradual(data(count)[0], names, each_step=each_step, seed=seed)
    _, numbers, shifts = arrived(stream)
    per_corruption = count * 9 if each_step else count
    assert [shift.corruption for shift in shifts] == [
        name for name in names for _ in range(per_corruption)
    ]
    for start in (0, per_corruption):
        part = slice(start, start + per_corruption)
        severities = [shift.severity for shift in shifts[part]]
        peak = severities.index(max(severities))
        assert severities[:peak] == sorted(severities[:peak])
        assert severities[peak:] == sorted(severities[peak:], reverse=True)
        assert sorted(numbers[part]) == sorted([*range(count)] * (per_corruption // count))
        if each_step or count >= 9:
            steps = [(severity, len(list(run))) for severity, run in groupby(severities)]
            assert [severity for severity, _ in steps] == HILL
            assert {n - count // (1 if each_step else 9) for _, n in steps} <= {0, 1}


@few
@given(count=counts, ends=st.tuples(st.floats(0, 5), st.floats(0, 5)), seed=seeds)
def test_growing_noise_is_monotone_and_keeps_its_ends(count, ends, seed):
    first, last = ends
    stream = streams.growing_noise(data(count)[0], first=first, last=last, seed=seed)
    severities = [shift.severity for shift in arrived(stream)[2]]
    assert severities[0] == first
    assert severities[-1] == (last if count > 1 else first)
    assert severities == pytest.approx(np.linspace(first, last, count))
    for before, after in pairwise(severities):
        assert after >= before - 1e-12 if last >= first else after <= before + 1e-12


@pytest.mark.parametrize("severity", [0.1, 4.7, 5.0])
def test_growing_noise_may_stay(severity):
    images = torch.zeros(500, 3, 1, 1, dtype=torch.uint8)
    for count in (49, 50, 499):
        stream = streams.growing_noise(images[:count], first=severity, last=severity)
        assert {shift.severity for shift in arrived(stream)[2]} == {severity}


def test_growing_noise_grows():
    images = torch.full((500, 3, 16, 16), 128, dtype=torch.uint8)
    found = arrived(streams.growing_noise(images))[0].float()
    change = [part.std().item() for part in found.split(50)]
    assert change == sorted(change)
    assert change[0] < 5 < 20 < change[-1]


def runs_of(classes):
    return sum(1 for _ in groupby(classes))


@pytest.mark.parametrize("concentration", [0.03, 0.3, 3.0])
@pytest.mark.parametrize(("slots", "size"), [(4, 12), (10, 5)])
def test_two_images_of_a_class_share_a_slot_as_often_as_claimed(concentration, slots, size):
    classes = np.repeat(np.arange(3), size)
    share = []
    for seed in range(3000):
        slot = draw_slots(classes, concentration, slots, np.random.default_rng(seed))
        assert 0 <= slot.min() <= slot.max() < slots
        for number in range(3):
            within = np.bincount(slot[classes == number])
            share.append((within * (within - 1)).sum() / (size * (size - 1)))
    expected = (1 + concentration) / (1 + slots * concentration)
    error = np.std(share) / len(share) ** 0.5
    assert np.mean(share) == pytest.approx(expected, abs=4 * error)
    assert error < 0.01


def test_classes_come_in_runs_the_smaller_the_concentration():
    images, labels = data(1000, classes=10)

    def runs(stream):
        return runs_of(labels[arrived(stream)[1]].tolist())

    few = runs(streams.class_correlated(images, labels, concentration=1e-6))
    some = runs(streams.class_correlated(images, labels, concentration=0.1))
    most = runs(streams.class_correlated(images, labels, concentration=1e6, slots=50))
    assert few == 10  # each class at once
    assert 10 < some <= 100
    assert 400 < most <= 500  # nearly every class in every slot
    assert runs(streams.shuffled(images)) > 850


def test_within_a_slot_a_class_comes_in_one_run():
    images, labels = data(300, classes=6)
    stream = streams.class_correlated(images, labels, slots=1)
    assert runs_of(labels[arrived(stream)[1]].tolist()) == 6


@few
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    imbalance=st.floats(1, 200),
    seed=seeds,
)
def test_label_shift_has_an_exponential_profile(sizes, imbalance, seed):
    labels = torch.tensor([7 * number for number, size in enumerate(sizes) for _ in range(size)])
    images = data(len(labels))[0]
    stream = streams.label_shifted(images, labels, imbalance=imbalance, seed=seed)
    numbers = arrived(stream)[1]
    assert len(set(numbers)) == len(numbers) == stream.length
    counts = Counter(labels[numbers].tolist())
    assert set(counts) == set(labels.tolist())  # at least one each
    ranks = permutation(key(seed, "stream", "label-shifted", "ranks"), len(sizes)).tolist()
    profile = [imbalance ** (-rank / max(len(sizes) - 1, 1)) for rank in ranks]
    scale = min(size / share for size, share in zip(sizes, profile))
    plain = [max(1, math.floor(scale * share + 1e-9)) for share in profile]
    assert [counts[7 * number] for number in range(len(sizes))] == plain


def test_label_shift_of_a_balanced_set():
    images, labels = data(500, classes=5)
    stream = streams.label_shifted(images, labels, imbalance=16)
    numbers = arrived(stream)[1]
    assert sorted(Counter(labels[numbers].tolist()).values()) == [6, 12, 25, 50, 100]
    most = [
        Counter(labels[arrived(streams.label_shifted(images, labels, seed=s))[1]].tolist())
        for s in range(20)
    ]
    assert len({found.most_common(1)[0][0] for found in most}) == 5  # any class may be frequent
    balanced = streams.label_shifted(images, labels, imbalance=1)
    assert sorted(arrived(balanced)[1]) == list(range(500))


def test_joined_streams_come_one_after_another():
    images, labels = data(30)
    parts = [streams.class_correlated(images, labels, shift=shift, batch=7) for shift in SHIFTS]
    found = arrived(streams.joined(parts))
    assert found[1] == [number for part in parts for number in arrived(part)[1]]
    assert found[2] == [shift for shift in SHIFTS for _ in range(30)]
    assert torch.equal(found[0], torch.cat([arrived(part)[0] for part in parts]))


def test_whole_and_fractional_severities_of_a_noise_do_not_mix():
    images, _ = data(10)
    pair = [Shift("gaussian_noise", 3), Shift("gaussian_noise", 3.0)]
    batch = next(iter(streams.mixed(images, pair, batch=20)))
    whole = corrupt(images, "gaussian_noise", 3)
    found = [
        torch.equal(image, whole[number]) for image, number in zip(batch.images, batch.numbers)
    ]
    assert found == [isinstance(shift.severity, int) for shift in batch.shifts]


@pytest.mark.parametrize("order", [streams.class_correlated, streams.label_shifted])
def test_orders_by_class_differ_from_shift_to_shift(order):
    images, labels = data(60)
    one, other = (order(images, labels, shift=shift, batch=60) for shift in (NOISE, DARK))
    numbers = [torch.cat([batch.numbers for batch in each]) for each in (one, other)]
    assert not torch.equal(*numbers)
    assert torch.equal(numbers[0].sort()[0], numbers[1].sort()[0])
