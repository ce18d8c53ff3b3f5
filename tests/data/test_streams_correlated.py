"""Correlated classes under several shifts: what each order claims."""

from collections import Counter
from itertools import groupby

import torch
from arrivals import SHIFTS, arrived, data, same
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.data import Shift, streams

NAMES = ["gaussian_noise", "contrast"]
HILL = [1, 2, 3, 4, 5, 4, 3, 2, 1]
few = settings(max_examples=15, deadline=None)
counts, seeds = st.integers(1, 30), st.integers(0, 2**63)


def runs_of(classes):
    return sum(1 for _ in groupby(classes))


@few
@given(count=counts, seed=seeds)
def test_every_image_comes_once_under_each_shift(count, seed):
    images, labels = data(count)
    once = list(range(count))
    for make in (streams.class_correlated_continual, streams.class_correlated_mixed):
        _, numbers, shifts = arrived(make(images, labels, SHIFTS, seed=seed))
        for shift in SHIFTS:
            assert sorted(n for n, s in zip(numbers, shifts) if s == shift) == once
    _, numbers, shifts = arrived(streams.class_correlated_gradual(images, labels, NAMES, seed=seed))
    for name in NAMES:
        assert sorted(n for n, s in zip(numbers, shifts) if s.corruption == name) == once


def test_continual_is_one_correlated_stream_after_another():
    images, labels = data(40)
    parts = [
        streams.class_correlated(images, labels, shift=shift, concentration=0.3, seed=4)
        for shift in SHIFTS
    ]
    whole = streams.class_correlated_continual(images, labels, SHIFTS, concentration=0.3, seed=4)
    assert same(arrived(whole), arrived(streams.joined(parts)))


def test_gradual_has_the_severities_of_gradual_and_the_order_of_correlated():
    images, labels = data(90)
    _, numbers, shifts = arrived(streams.class_correlated_gradual(images, labels, NAMES, seed=2))
    assert shifts == arrived(streams.gradual(images, NAMES, seed=2))[2]
    steps = [severity for severity, _ in groupby(s.severity for s in shifts[:90])]
    assert steps == HILL
    alone = streams.class_correlated(images, labels, shift=Shift(NAMES[1], 5), seed=2)
    assert numbers[90:] == arrived(alone)[1]


def test_mixed_has_runs_of_a_class_under_many_shifts():
    images, labels = data(400, classes=10)
    plain = arrived(streams.mixed(images, SHIFTS))
    _, numbers, shifts = arrived(streams.class_correlated_mixed(images, labels, SHIFTS))
    assert runs_of(labels[plain[1]].tolist()) > 900
    assert 10 <= runs_of(labels[numbers].tolist()) <= 100
    for start in range(0, 1200, 200):  # no shift comes before another
        counts = Counter(shifts[start : start + 200])
        assert len(counts) == 3 and min(counts.values()) > 30
    at_once = streams.class_correlated_mixed(images, labels, SHIFTS, concentration=1e-6)
    assert runs_of(labels[arrived(at_once)[1]].tolist()) == 10


def test_images_are_those_of_the_shift():
    images, labels = data(12)
    for make in (streams.class_correlated_continual, streams.class_correlated_mixed):
        found, numbers, shifts = arrived(make(images, labels, SHIFTS, batch=5, seed=1))
        expected = streams.shifted(images[numbers], torch.tensor(numbers), shifts, seed=1)
        assert torch.equal(found, expected)
