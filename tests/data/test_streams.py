import gc
import math
import os
import pickle
import sys
import time
from collections import Counter, defaultdict
from dataclasses import fields, replace
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.data import Shift, Stream, corrupt, streams
from acclimate.data.corruptions import corrupt_by_amount
from acclimate.data.streams import CLEAN, ORDERS, Batch
from acclimate.data.streams.labelled import spread
from acclimate.errors import InputError
from acclimate.randomness import key, permutation

NOISE, DARK = Shift("gaussian_noise", 5), Shift("contrast", 3)
SHIFTS = [NOISE, CLEAN, DARK]
HILL = [1, 2, 3, 4, 5, 4, 3, 2, 1]


def make(order, images, labels, **options):
    """The stream of that name with arguments of ours."""
    given = {
        "shuffled": (NOISE,),
        "class-correlated": (labels,),
        "label-shifted": (labels,),
        "gradual": (["gaussian_noise", "contrast"],),
        "growing-noise": ("speckle_noise",),
        "continual": (SHIFTS,),
        "recurring": (SHIFTS,),
        "mixed": (SHIFTS,),
    }[order]
    if order == "recurring":
        options |= {"rounds": 3}
    return ORDERS[order](images, *given, **options)


def data(count, classes=4, seed=0, side=6):
    """Images, no two alike, and labels of which each class has some."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % classes
    return images, labels[torch.randperm(count, generator=generator)]


def arrived(stream):
    """All images, numbers and shifts."""
    batches = list(stream)
    images = torch.cat([stream.images[:0], *(batch.images for batch in batches)])
    numbers = [number for batch in batches for number in batch.numbers.tolist()]
    return images, numbers, [shift for batch in batches for shift in batch.shifts]


def same(one, other):
    return torch.equal(one[0], other[0]) and one[1:] == other[1:]


orders = pytest.mark.parametrize("order", ORDERS)
counts, seeds, sizes = st.integers(1, 30), st.integers(0, 2**63), st.integers(1, 40)
few = settings(max_examples=15, deadline=None)


# All streams.


@orders
@few
@given(count=counts, seed=seeds, batch=sizes, share=st.floats(0, 1))
def test_it_goes_on_from_any_position(order, count, seed, batch, share):
    stream = make(order, *data(count), batch=batch, seed=seed)
    images, numbers, shifts = arrived(stream)
    position = round(share * stream.length)
    rest = stream.start_at(position)
    assert rest.position == position
    assert same(arrived(rest), (images[position:], numbers[position:], shifts[position:]))
    assert same(arrived(rest.start_at(0)), (images, numbers, shifts))


@orders
def test_where_a_batch_began_the_rest_has_the_same_batches(order):
    stream = make(order, *data(23), batch=5)
    batches = list(stream)
    for k, batch in enumerate(batches[:-1]):
        after = list(stream.start_at(batch.position))
        assert [x.numbers.tolist() for x in after] == [x.numbers.tolist() for x in batches[k + 1 :]]
        assert [x.position for x in after] == [x.position for x in batches[k + 1 :]]


@orders
@few
@given(count=counts, seed=seeds, batch=sizes)
def test_same_seed_same_stream(order, count, seed, batch):
    images, labels = data(count)
    stream = make(order, images, labels, batch=batch, seed=seed)
    once = arrived(stream)
    assert same(once, arrived(stream))
    assert same(once, arrived(make(order, images, labels, batch=batch + 1, seed=seed)))


@orders
def test_another_seed_is_another_stream(order):
    images, labels = data(30)
    found = [arrived(make(order, images, labels, seed=seed)) for seed in (0, 1)]
    assert found[0][1] != found[1][1]
    # Noise too: the same image under the same noise looks different.
    image = {
        (number, shift): image
        for image, number, shift in zip(*found[0])
        if "noise" in shift.corruption
    }
    for other, number, shift in zip(*found[1]):
        if shift.severity and (number, shift) in image:
            assert not torch.equal(other, image[number, shift])


@orders
@few
@given(count=counts, seed=seeds, batch=sizes)
def test_an_image_is_corrupted_as_it_would_be_alone(order, count, seed, batch):
    images, labels = data(count)
    stream = make(order, images, labels, batch=batch, seed=seed)
    for found, number, shift in zip(*arrived(stream)):
        image, name, severity = images[number : number + 1], shift.corruption, shift.severity
        if name == "none":
            expected = image
        elif isinstance(severity, float):
            amount, index = torch.tensor([severity]).double(), torch.tensor([number])
            expected = corrupt_by_amount(image, name, amount, index, seed=seed)
        else:
            expected = corrupt(image, name, severity, seed=seed, first_index=number)
        assert torch.equal(found, expected[0])


@orders
@few
@given(count=counts, batch=sizes)
def test_batches_are_full_but_the_last(order, count, batch):
    stream = make(order, *data(count), batch=batch)
    found = list(stream)
    assert len(found) == len(stream) == math.ceil(stream.length / batch)
    assert [len(x.images) for x in found[:-1]] == [batch] * (len(found) - 1)
    assert sum(len(x.images) for x in found) == stream.length == found[-1].position
    for x in found:
        assert len(x.images) == len(x.numbers) == len(x.shifts)
        assert (x.images.dtype, x.numbers.dtype) == (torch.uint8, torch.int64)


@orders
def test_images_are_left_alone_in_whatever_layout(order):
    images, labels = data(20)
    before, found = images.clone(), arrived(make(order, images, labels, batch=7))
    assert torch.equal(images, before)
    last = images.contiguous(memory_format=torch.channels_last)
    assert same(arrived(make(order, last, labels, batch=7)), found)


@orders
def test_a_stream_can_be_pickled(order):
    stream = make(order, *data(9), batch=4)
    assert same(arrived(pickle.loads(pickle.dumps(stream))), arrived(stream))


@orders
def test_labels_are_nowhere_in_a_stream(order):
    assert {field.name for field in fields(Batch)} == {"images", "numbers", "shifts", "position"}
    images, labels = data(40)
    stream = make(order, images, labels)
    before = arrived(stream)
    known, queue = {}, [stream]
    while queue:
        thing = queue.pop()
        if id(thing) in known or isinstance(thing, type) or type(thing).__name__ == "module":
            continue
        known[id(thing)] = thing
        if not callable(thing) or hasattr(thing, "func"):  # a partial's arguments, not globals
            queue += gc.get_referents(thing)
    assert id(images) in known
    assert labels.tolist() not in [
        thing.tolist() for thing in known.values() if isinstance(thing, torch.Tensor | np.ndarray)
    ]
    labels.zero_()
    assert same(arrived(stream), before)


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
    for order in ("shuffled", "class-correlated", "growing-noise"):
        numbers = arrived(make(order, images, labels, seed=seed))[1]
        assert sorted(numbers) == list(range(count))
    _, numbers, _ = arrived(make("label-shifted", images, labels, seed=seed))
    assert len(set(numbers)) == len(numbers)


@few
@given(count=counts, seed=seeds)
def test_every_image_comes_once_under_each_shift(count, seed):
    images, labels = data(count)
    for order in ("continual", "mixed"):
        found = per_shift(make(order, images, labels, seed=seed))
        assert set(found) == set(SHIFTS)
        assert all(sorted(numbers) == list(range(count)) for numbers in found.values())
    found = per_shift(make("recurring", images, labels, seed=seed))
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
        slot = spread(classes, concentration, slots, np.random.default_rng(seed))
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


# Lazy, and small.


def test_a_stream_without_end_begins_at_once_and_goes_on_anywhere():
    images, _ = data(1000, side=2)
    started = time.perf_counter()
    stream = streams.recurring(images, SHIFTS, rounds=10**9, batch=64)
    assert stream.length == 3 * 10**12
    assert len(stream) == 3 * 10**12 // 64
    batches = iter(stream)
    assert next(batches).position == 64
    late = stream.start_at(stream.length - 1500)
    assert len(list(late)) == math.ceil(1500 / 64)
    far = next(iter(stream.start_at(2 * 10**12 + 1234)))
    assert far.shifts[0] == SHIFTS[(2 * 10**9 + 1) % 3]
    assert time.perf_counter() - started < 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("order", ["shuffled", "class-correlated", "mixed"])
def test_only_a_batch_of_pixels_is_in_memory(order, tmp_path):
    """A sparse file of 480 MB that takes no disk."""
    count, side = 40_000, 64

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    path = tmp_path / "images"
    with path.open("wb") as file:
        file.truncate(count * side * side * 3)
    array = np.memmap(path, np.uint8, "r+", shape=(count, side, side, 3))
    images = torch.from_numpy(array).permute(0, 3, 1, 2)
    labels = torch.arange(count) % 10
    next(iter(make(order, images[:300], labels[:300], batch=32)))  # what is made once
    before = resident()
    stream = make(order, images, labels, batch=32)
    for batch, _ in zip(stream, range(4)):
        assert batch.images.shape == (32, 3, side, side)
    assert resident() - before < 60 * 2**20


# Bad input.


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda x, y: Shift("fogg", 1), "unknown corruption 'fogg': did you mean fog"),
        (lambda x, y: Shift("fog", 6), "severity 6 does not exist"),
        (lambda x, y: Shift("fog", 0), "severity 0 does not exist"),
        (lambda x, y: Shift("fog", 2.5), r"fog has no severity 2.5"),
        (lambda x, y: Shift("impulse_noise", 5.5), "severity 5.5 does not exist"),
        (lambda x, y: Shift("none", 1), "'none' has severity 0, not 1"),
        (lambda x, y: streams.shuffled(x[:0]), "there are no images"),
        (lambda x, y: streams.shuffled(x.float()), "float32.*uint8"),
        (lambda x, y: streams.shuffled(x[0]), r"shape \[3, 6, 6\]"),
        (lambda x, y: streams.shuffled(x.numpy()), "ndarray.*tensor"),
        (lambda x, y: streams.shuffled(x, batch=0), "batch is 0: give at least 1"),
        (lambda x, y: streams.shuffled(x).start_at(-1), r"position -1 .*0\.\.20"),
        (lambda x, y: streams.shuffled(x).start_at(21), r"position 21 .*0\.\.20"),
        (lambda x, y: streams.continual(x, []), "there are no shifts"),
        (lambda x, y: streams.mixed(x, []), "there are no shifts"),
        (lambda x, y: streams.mixed(x[:0], SHIFTS), "there are no images"),
        (lambda x, y: streams.gradual(x, []), "there are no shifts"),
        (lambda x, y: streams.gradual(x, ["fogg"]), "did you mean fog"),
        (lambda x, y: streams.recurring(x, SHIFTS, rounds=0), "rounds is 0"),
        (lambda x, y: streams.growing_noise(x, "fog"), "fog has no severity 0.0"),
        (lambda x, y: streams.growing_noise(x, last=6), "severity 6.0 does not exist"),
        (lambda x, y: streams.class_correlated(x, y[:3]), r"20 images and labels of shape \[3\]"),
        (lambda x, y: streams.class_correlated(x[:0], y[:0]), "there are no images"),
        (lambda x, y: streams.class_correlated(x, y.float()), "labels are torch.float32"),
        (lambda x, y: streams.class_correlated(x, y.tolist()), "labels are list"),
        (lambda x, y: streams.class_correlated(x, y, concentration=0), "concentration is 0"),
        (lambda x, y: streams.class_correlated(x, y, concentration=math.nan), "concentration"),
        (lambda x, y: streams.class_correlated(x, y, slots=0), "slots is 0"),
        (lambda x, y: streams.label_shifted(x, y, imbalance=0.5), "imbalance is 0.5"),
        (lambda x, y: streams.label_shifted(x, y, imbalance=math.inf), "imbalance is inf"),
        (lambda x, y: streams.label_shifted(x, y[:, None]), r"labels of shape \[20, 1\]"),
        (lambda x, y: streams.joined([]), "there are no streams"),
        (
            lambda x, y: streams.joined([streams.shuffled(x), streams.shuffled(x, seed=1)]),
            "cannot be joined",
        ),
        (
            lambda x, y: streams.joined([streams.shuffled(x), streams.shuffled(x.clone())]),
            "cannot be joined",
        ),
    ],
)
def test_bad_input_gets_one_clear_sentence(make_it, message):
    with pytest.raises(InputError, match=message):
        make_it(*data(20))


def test_a_position_at_the_end_leaves_nothing():
    stream = streams.shuffled(data(20)[0], batch=8)
    assert list(stream.start_at(20)) == []
    assert len(stream.start_at(20)) == 0
    assert len(stream.start_at(19)) == 1


def test_a_stream_is_a_value():
    stream = streams.shuffled(data(20)[0])
    with pytest.raises(AttributeError):
        stream.position = 3
    assert isinstance(replace(stream, batch=3), Stream)
    one, other = iter(stream), iter(stream)  # neither moves the other on
    assert torch.equal(next(one).numbers, next(other).numbers)
