"""The queue: order within a stream, joined requests, turns between streams, bounds."""

import time
from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acclimate.serve.batcher import Batcher, Job
from acclimate.serve.refused import RefusedError
from acclimate.serve.settings import ServeSettings

SETTINGS = ServeSettings(batch=8, wait_ms=0, request_images=8, stream_images=64, queue_images=100)


def images(count, value=0):
    return Job(images=torch.full((count, 1, 1, 1), value))


def taken(batcher):
    found = []
    while (each := batcher.take(0.0)) is not None:
        found.append(each)
    return found


def sizes(batcher):
    return [(name, [job.count for job in jobs]) for name, jobs in taken(batcher)]


def test_small_requests_of_a_stream_are_joined_up_to_a_batch():
    batcher = Batcher(SETTINGS)
    for count in (3, 3, 3, 1):
        batcher.add("a", [images(count)])
    assert sizes(batcher) == [("a", [3, 3]), ("a", [3, 1])]
    assert batcher.images == 0 and batcher.empty


def test_a_request_waits_for_others_of_its_stream_unless_there_is_a_batch():
    batcher = Batcher(replace(SETTINGS, wait_ms=60_000))
    batcher.add("a", [images(3)])
    assert batcher.take(0.0) is None
    batcher.add("b", [images(8)])
    assert batcher.take(0.0)[0] == "b"
    batcher.add("a", [images(5)])
    assert sizes(batcher) == [("a", [3, 5])]


def test_a_short_wait_ends_by_itself():
    batcher = Batcher(replace(SETTINGS, wait_ms=30))
    began = time.monotonic()
    batcher.add("a", [images(1)])
    assert batcher.take(5.0)[0] == "a"
    assert 0.025 < time.monotonic() - began < 2


def test_actions_are_done_in_their_turn_and_at_once():
    batcher = Batcher(replace(SETTINGS, wait_ms=60_000))
    action = Job(action=lambda name: None)
    batcher.add("a", [images(1)])
    batcher.add("a", [images(2), action, images(1)])
    found = [[job.count or "action" for job in jobs] for _, jobs in taken(batcher)]
    assert found == [[1, 2], ["action"]]
    batcher.close()
    assert sizes(batcher) == [("a", [1])]


def test_streams_take_turns():
    batcher = Batcher(SETTINGS)
    for _ in range(3):
        batcher.add("much", [images(8)])
    batcher.add("little", [images(1)])
    assert [name for name, _ in taken(batcher)] == ["much", "little", "much", "much"]


def test_too_much_of_a_stream_is_refused_with_429():
    batcher = Batcher(SETTINGS)
    for _ in range(8):
        batcher.add("a", [images(8)])
    with pytest.raises(RefusedError, match="64 images of this stream wait") as caught:
        batcher.add("a", [images(1)])
    assert caught.value.status == 429 and 1 <= caught.value.retry_after <= 60
    batcher.add("b", [images(8)])


def test_too_much_in_all_is_refused_with_503():
    batcher = Batcher(SETTINGS)
    for number in range(12):
        batcher.add(f"s{number}", [images(8)])
    with pytest.raises(RefusedError, match="busy") as caught:
        batcher.add("new", [images(8)])
    assert caught.value.status == 503 and caught.value.retry_after
    taken(batcher)
    batcher.add("new", [images(8)])


def test_actions_without_end_are_refused():
    batcher = Batcher(SETTINGS)
    with pytest.raises(RefusedError, match="wait"):
        for _ in range(1000):
            batcher.add("a", [Job(action=lambda name: None)])


def test_closed_it_gives_out_what_waits_and_takes_no_more():
    batcher = Batcher(replace(SETTINGS, wait_ms=60_000))
    batcher.add("a", [images(1)])
    batcher.close()
    with pytest.raises(RefusedError, match="closing"):
        batcher.add("a", [images(1)])
    assert sizes(batcher) == [("a", [1])] and batcher.empty


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 8), min_size=1, max_size=3))
        | st.none(),
        max_size=40,
    )
)
def test_whatever_comes_each_stream_keeps_its_order_and_loses_nothing(events):
    batcher, sent, got = Batcher(SETTINGS), defaultdict(list), defaultdict(list)
    for event in [*events, *[None] * 200]:
        if event is None:
            if (found := batcher.take(0.0)) is not None:
                name, jobs = found
                assert sum(job.count for job in jobs) <= SETTINGS.batch
                assert len(jobs) == 1 or all(job.count for job in jobs)
                got[name] += jobs
            continue
        name, counts = event
        jobs = [images(n) if n else Job(action=lambda name: None) for n in counts]
        try:
            batcher.add(name, jobs)
        except RefusedError:
            continue
        sent[name] += jobs
    assert {name: jobs for name, jobs in got.items() if jobs} == {
        n: j for n, j in sent.items() if j
    }
    assert batcher.images == 0 and batcher.empty
