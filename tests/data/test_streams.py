import gc
import math
import os
import pickle
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from arrivals import NOISE, SHIFTS, arrived, data, same
from hypothesis import example, given, settings
from hypothesis import strategies as st

from acclimate.data import Shift, Stream, corrupt, streams
from acclimate.data.corruptions import corrupt_by_amount
from acclimate.data.streams import ORDERS, Batch


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
        "class-correlated-continual": (labels, SHIFTS),
        "class-correlated-gradual": (labels, ["gaussian_noise", "contrast"]),
        "class-correlated-mixed": (labels, SHIFTS),
    }[order]
    if order == "recurring":
        options |= {"rounds": 3}
    return ORDERS[order](images, *given, **options)


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
@example(count=19, seed=5065, batch=1)  # a severity that float32 would round
def test_an_image_is_corrupted_as_it_would_be_alone(order, count, seed, batch):
    images, labels = data(count)
    stream = make(order, images, labels, batch=batch, seed=seed)
    for found, number, shift in zip(*arrived(stream)):
        image, name, severity = images[number : number + 1], shift.corruption, shift.severity
        if name == "none":
            expected = image
        elif isinstance(severity, float):
            amount, index = torch.tensor([severity], dtype=torch.float64), torch.tensor([number])
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


@pytest.mark.parametrize("make", [streams.shuffled, streams.continual, streams.mixed])
def test_images_of_a_domain_arrive_as_they_are(make):
    images = torch.arange(10 * 3 * 6 * 6).remainder(256).byte().view(10, 3, 6, 6)
    sketch = Shift(domain="sketch")
    stream = make(images, sketch if make is streams.shuffled else [sketch], batch=4)
    for batch in stream:
        assert torch.equal(batch.images, images[batch.numbers])
        assert set(batch.shifts) == {sketch}
    assert (sketch.name, Shift("fog", 5).name, streams.CLEAN.name) == ("sketch", "fog", "none")
