"""Streams: which states are in memory, which go to disk, which are forgotten, and what is said."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from serving import SETTINGS

from acclimate.errors import InputError
from acclimate.serve.model import SharedModel, Wish
from acclimate.serve.refused import RefusedError
from acclimate.serve.state_files import StateFiles
from acclimate.serve.streams import Streams


@pytest.fixture(scope="module")
def model(served):
    return SharedModel.load(served, Wish(device="cpu"))


@pytest.fixture
def streams_of(served, tmp_path):
    made = []

    def make(folder="states", path=None, class_shares="any", **changes):
        model = SharedModel.load(path or served, Wish(device="cpu", class_shares=class_shares))
        files = StateFiles(Path(tmp_path, folder))
        made.append(files)
        return Streams(model, replace(SETTINGS, **changes), files)

    yield make
    for files in made:
        files.close(timeout=2)


def learn(streams, name, batch):
    stream = streams.enter(name)
    answers = streams.model(batch, stream.mode)
    streams.learned(stream, len(batch))
    return torch.cat([answers.frozen, answers.adapted])


def test_states_in_memory_are_bounded_and_streams_go_on_from_disk(streams_of, images, served):
    streams, alone = streams_of(in_memory=2), SharedModel.load(served, Wish(device="cpu"))
    names = [f"s{n}" for n in range(5)]
    for first in (0, 8):
        for n, name in enumerate(names):
            learn(streams, name, images[8 * n + first :][:8])
            assert streams.in_memory <= 2
    assert [stream.name for stream in streams.all()] == names[::-1]
    alone(images[:8], "bounded")
    expected = alone(images[8:16], "bounded")
    again = alone(images[:8], "bounded")
    assert torch.equal(learn(streams, "s0", images[:8]), torch.cat([again.frozen, again.adapted]))
    assert expected.verdict is not None and streams.get("s0").images == 24


def test_a_new_service_goes_on_from_the_last_saved_states(streams_of, images):
    first = streams_of()
    learn(first, "a", images[:8])
    first.set_mode("a", "shadow")
    first.save_all()
    assert first.files.flush(10)
    saved = learn(first, "a", images[8:16])  # is not saved any more: the service is killed
    second = streams_of()
    stream = second.get("a")
    assert (stream.images, stream.batches, stream.mode) == (8, 1, "shadow")
    assert "saved" in stream.note and "before the server started" in stream.note
    assert torch.equal(learn(second, "a", images[8:16]), saved)


def test_a_damaged_state_costs_the_memory_of_its_stream_alone(streams_of, images):
    first = streams_of()
    for name in ("a", "b"):
        learn(first, name, images[:8])
    first.save_all()
    assert first.files.flush(10)
    first.files.path("a").write_bytes(b"damaged")
    new = learn(first, "c", images[8:16])
    second = streams_of()
    assert second.get("a") is None and second.get("b").images == 8
    assert torch.equal(learn(second, "a", images[8:16]), new)
    stream = second.get("a")
    assert "began anew" in stream.note and "damaged" in stream.note and stream.images == 8
    assert not torch.equal(learn(second, "b", images[8:16]), new)


def test_a_state_that_is_damaged_while_the_service_runs_is_told(streams_of, images):
    streams = streams_of(in_memory=1)
    for name in ("a", "b"):
        learn(streams, name, images[:8])
    assert streams.files.flush(10)
    streams.files.path("a").write_bytes(b"damaged")
    learn(streams, "a", images[:8])
    assert "began anew" in streams.get("a").note and streams.get("a").images == 8


def test_states_of_another_bundle_begin_anew_and_say_so(streams_of, unguarded, images):
    first = streams_of()
    learn(first, "a", images[:8])
    first.save_all()
    assert first.files.flush(10)
    second = streams_of(path=unguarded)
    assert second.get("a").mode == "off"
    learn(second, "a", images[:8])
    assert "began anew" in second.get("a").note and second.get("a").images == 8


def test_states_of_a_guard_that_was_told_something_else_begin_anew_and_say_so(streams_of, images):
    first = streams_of()
    learn(first, "a", images[:8])
    first.save_all()
    assert first.files.flush(10)
    second = streams_of(class_shares="as-source")
    learn(second, "a", images[:8])
    assert second.get("a").note.startswith("began anew: the state is of a guard with other rules")


def test_idle_streams_are_forgotten_also_on_disk(streams_of, images):
    streams = streams_of(in_memory=1)
    for name in ("old", "new"):
        learn(streams, name, images[:8])
    assert streams.files.flush(10) and streams.files.path("old").exists()
    streams.get("old").used -= 2 * SETTINGS.idle_s
    assert streams.expire() == 1
    assert streams.get("old") is None and not streams.files.path("old").exists()
    assert streams.get("new") is not None


@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_a_clock_that_jumps_neither_forgets_streams_nor_stops_saving(
    streams_of, images, monkeypatch, jump
):
    streams, now = streams_of(save_s=0.05), time.time
    learn(streams, "a", images[:8])
    monkeypatch.setattr(time, "time", lambda: now() + jump)
    learn(streams, "a", images[8:16])
    assert streams.expire() == 0
    time.sleep(0.1)
    assert streams.save_due() == 0.0 and streams.files.flush(10)
    again = streams_of()
    assert again.get("a").images == 16 and again.expire() == 0


def test_states_are_saved_when_they_are_due(streams_of, images):
    streams = streams_of(save_s=60, save_images=16)
    learn(streams, "a", images[:8])
    assert 50 < streams.save_due() <= 60
    learn(streams, "b", images[:8])
    learn(streams, "a", images[8:16])
    assert streams.save_due() == 0.0 and streams.files.flush(10)
    assert streams.files.path("a").exists() and not streams.files.path("b").exists()
    assert streams.get("a").saved is not None and streams.get("b").saved is None


def test_the_number_of_streams_is_bounded(streams_of, images):
    streams = streams_of(streams=3)
    for name in "abc":
        streams.enter(name)
    with pytest.raises(RefusedError, match="no more can begin") as caught:
        streams.enter("d")
    assert caught.value.status == 503 and caught.value.retry_after
    streams.forget("a")
    streams.enter("d")


def test_a_stream_that_begins_anew_is_as_a_new_one(streams_of, images):
    streams = streams_of()
    first = learn(streams, "a", images[:8])
    learn(streams, "a", images[8:16])
    streams.set_mode("a", "shadow")
    stream = streams.begin_anew("a")
    assert (stream.images, stream.mode) == (0, "shadow")
    assert torch.equal(learn(streams, "a", images[:8]), first)


@pytest.mark.parametrize("again", [False, True])
def test_a_guard_that_is_added_is_used(streams_of, served, unguarded, images, again):
    streams = streams_of(path=unguarded)
    for name in ("a", "b"):
        learn(streams, name, images[:8])
    streams.set_mode("b", "shadow")
    assert streams.get("a").mode == "off"
    if again:
        streams.save_all()
        assert streams.files.flush(10)
        streams = streams_of(path=served)
    else:
        streams.renew(SharedModel.load(served, Wish(device="cpu")), "another")
    assert [streams.get(name).mode for name in ("a", "b")] == ["bounded", "shadow"]
    streams.set_mode("a", "off")
    streams.save_all()
    assert streams.files.flush(10)
    assert streams_of(path=served).get("a").mode == "off"


@pytest.mark.parametrize("number", [10**400, float("inf"), float("nan"), -1, None, "x"])
def test_impossible_numbers_of_a_saved_state_cost_no_start(streams_of, images, number):
    streams = streams_of()
    learn(streams, "a", images[:8])
    saved = streams.copy_of("a")
    numbers = dict.fromkeys(("images", "batches", "changed"), number)
    streams.files.put("a", replace(saved, record=saved.record | numbers))
    assert streams.files.flush(10)
    again = streams_of()
    assert again.get("a").images == 0
    assert "began anew" not in again.enter("a").note and again.get("a").images == 0


def test_a_state_of_another_model_is_refused_before_the_stream_is_forgotten(
    streams_of, unguarded, images
):
    streams, other = streams_of(), streams_of("other", unguarded)
    learn(streams, "a", images[:8])
    learn(other, "b", images[:8])
    kept = other.copy_of("b")
    with pytest.raises(InputError):
        streams.restore("a", kept.state, kept.record)
    assert streams.get("a").images == 8


def test_a_snapshot_is_restored_in_another_stream(streams_of, images):
    streams = streams_of()
    learn(streams, "a", images[:8])
    kept = streams.copy_of("a")
    expected = learn(streams, "a", images[8:16])
    streams.restore("b", kept.state, kept.record)
    assert torch.equal(learn(streams, "b", images[8:16]), expected)
    assert streams.get("b").images == 16


def test_a_batch_that_failed_costs_no_other_stream_anything(streams_of, images):
    streams = streams_of()
    learn(streams, "a", images[:8])
    streams.save_all()
    expected = learn(streams, "b", images[:8])
    learn(streams, "a", images[8:16])
    streams.lose("a", "went back")
    assert torch.equal(learn(streams, "c", images[:8]), expected)
    assert streams.get("a").images == 16
    learn(streams, "a", images[8:16])
    assert streams.get("a").images == 16  # 8 of the saved state, and 8 more
