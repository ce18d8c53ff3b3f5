"""The engine: each stream as if it were alone, whatever else goes on."""

import random
import time
from collections import defaultdict
from concurrent.futures import Future
from dataclasses import replace

import pytest
import torch
from serving import SETTINGS

from acclimate.adapt import Adapter
from acclimate.bundle import Bundle
from acclimate.errors import InputError
from acclimate.guard import Guard, Rules
from acclimate.methods import AdapterSettings
from acclimate.parts.answer import After
from acclimate.serve.model import SharedModel, Wish
from acclimate.serve.refused import RefusedError
from acclimate.serve.reply import Gathered
from acclimate.serve.streams import Streams


def batches_of(sent):
    """The images of each batch of a stream, put together by what the replies say."""
    found = defaultdict(dict)
    for images, reply in sent:
        at = 0
        for place in reply.places:
            found[place.number][place.first] = images[at : at + place.images], reply, at, place
            at += place.images
    return [[parts[first] for first in sorted(parts)] for _, parts in sorted(found.items())]


def check_alone(model, sent, guarded=True):
    """Replies are those of an adapter of the stream's own, to the bit."""
    for parts in batches_of(sent):
        batch = torch.cat([images for images, *_ in parts])
        assert len(batch) == parts[0][3].size
        expected = model(batch)
        first = 0
        for images, reply, at, _ in parts:
            rows, own = slice(first, first + len(images)), slice(at, at + len(images))
            assert torch.equal(reply.given[own], expected[rows])
            if not guarded:
                assert torch.equal(reply.answers.adapted[own], expected[rows])
            first += len(images)


def interleaved(engine, images, streams, requests, seed=0):
    """Send requests of several streams in a random order; (images, reply) by stream."""
    draw, sent = random.Random(seed), defaultdict(list)
    for _ in range(requests):
        name = f"s{draw.randrange(streams)}"
        first, count = draw.randrange(100), draw.choice([1, 1, 2, 3, 5, 12])
        batch = images[first : first + count]
        sent[name].append((batch, engine.submit(name, batch)))
        if len(sent) % 7 == 0:
            sent[name][-1][1].result(60)
    return {n: [(b, future.result(900)) for b, future in each] for n, each in sent.items()}


def alone(path, guarded):
    bundle = Bundle.load(path)
    adapter = Adapter(bundle, device="cpu")
    return Guard(adapter, bundle) if guarded else adapter


@pytest.mark.parametrize("guarded", [True, False])
def test_interleaved_streams_are_as_adapters_alone(engine_of, served, unguarded, images, guarded):
    path = served if guarded else unguarded
    engine = engine_of(path, in_memory=3, wait_ms=1)
    for name, sent in interleaved(engine, images, 8, 60).items():
        check_alone(alone(path, guarded), sent, guarded)
        assert engine.streams.get(name).images == sum(len(batch) for batch, _ in sent)
    assert engine.streams.in_memory <= 3


@pytest.mark.parametrize("method", ["eata", "rotta", "note", "cta"])
def test_other_methods_are_apart_too(engine_of, bundle_of, tmp_path, images, method):
    bundle = replace(bundle_of(method), method=method)
    bundle.save(tmp_path / "bundle")
    engine = engine_of(tmp_path / "bundle", in_memory=2)
    for sent in interleaved(engine, images, 4, 12).values():
        check_alone(alone(tmp_path / "bundle", False), sent, False)


@pytest.mark.slow
def test_a_thousand_interleaved_streams_are_as_a_thousand_adapters(engine_of, served, images):
    engine = engine_of(served, in_memory=100, queue_images=100_000, timeout_s=900)
    found = interleaved(engine, images, 1000, 3000)
    assert len(found) > 900
    for sent in found.values():
        check_alone(alone(served, True), sent)


def test_a_guard_is_told_of_the_classes(served, unguarded, images):
    model = SharedModel.load(served, Wish(device="cpu", class_shares="as-source"))
    bundle = Bundle.load(served)
    guard = Guard(Adapter(bundle, device="cpu"), bundle, rules=Rules(class_shares="as-source"))
    given = guard(images[:8])
    found = model(images[:8], "bounded")
    assert model._model._rules.class_shares == "as-source"
    assert found.verdict.estimate == guard.verdict.estimate
    assert torch.equal(torch.where(found.use_adapted[:, None], *guard.both[::-1]), given)
    with pytest.raises(InputError, match="no calibration of a guard"):
        SharedModel.load(unguarded, Wish(class_shares="as-source"))


def test_the_frozen_classifier_by_itself_runs_once_a_batch(bundle, images):
    plain = SharedModel(bundle, "plain", Wish(method="source"))(images[:4], "off")
    assert plain.frozen is plain.adapted
    flipped = AdapterSettings(answer=After(flip=True))
    wish = Wish(method="source", settings=flipped)
    both = SharedModel(bundle, "flipped", wish)(images[:4], "off")
    torch.testing.assert_close(both.frozen, plain.frozen)
    assert not torch.equal(both.frozen, both.adapted)
    for mode in ("off", "shadow"):  # the twin has the same settings, and is another model
        twin = SharedModel(bundle, "twin", Wish(method="aligned"))(images[:4], mode)
        assert torch.equal(twin.frozen, plain.frozen) and not torch.equal(twin.adapted, twin.frozen)
        assert bool(twin.use_adapted.all()) == (mode == "off")


def test_modes_are_the_streams_own(engine_of, served, images):
    engine = engine_of(served)
    for name, mode in (("a", "bounded"), ("b", "shadow"), ("c", "off")):
        engine.ask(name, lambda s, n, mode=mode: Streams.set_mode(s, n, mode)).result(60)
    replies = {name: engine.submit(name, images[:8]).result(60) for name in "abc"}
    assert torch.equal(replies["b"].given, replies["b"].answers.frozen)
    assert torch.equal(replies["c"].given, replies["c"].answers.adapted)
    assert replies["c"].answers.verdict is None and replies["a"].answers.verdict is not None
    assert [replies[name].mode for name in "abc"] == ["bounded", "shadow", "off"]
    assert torch.equal(replies["a"].answers.adapted, replies["c"].answers.adapted)


def test_small_requests_are_joined(engine_of, served, images):
    engine = engine_of(served, wait_ms=200)
    futures = [engine.submit("a", images[n : n + 2]) for n in range(0, 8, 2)]
    places = [future.result(60).places[0] for future in futures]
    assert [(place.number, place.size, place.first) for place in places] == [
        (0, 8, first) for first in (0, 2, 4, 6)
    ]


def test_more_images_than_a_batch_are_answered_in_their_order(engine_of, served, images):
    engine = engine_of(served)
    reply = engine.submit("a", images[:20]).result(60)
    assert [place.images for place in reply.places] == [8, 8, 4] and len(reply.given) == 20
    check_alone(alone(served, True), [(images[:20], reply)])


def test_a_sequence_begins_anew_and_ends(engine_of, served, images):
    engine = engine_of(served)
    first = engine.submit("a", images[:8], start=True).result(60)
    engine.submit("a", images[8:16]).result(60)
    again = engine.submit("a", images[:8], start=True, end=True)
    assert torch.equal(again.result(60).given, first.given)
    with pytest.raises(RefusedError, match="no stream"):
        engine.ask("b", lambda streams, name: None).result(60)
        engine.known("a")


def test_of_a_request_that_fails_nothing_more_is_done(engine_of, served, images, monkeypatch):
    engine, call, sizes = engine_of(served), SharedModel.__call__, []

    def failing(self, batch, mode):
        sizes.append(len(batch))
        if len(sizes) == 2:
            raise RuntimeError("a kernel failed")
        return call(self, batch, mode)

    engine.submit("a", images[:1]).result(60)
    sizes.clear()
    monkeypatch.setattr(SharedModel, "__call__", failing)
    with pytest.raises(RefusedError, match="the model failed"):
        engine.submit("a", images[:28], end=True).result(60)
    engine.ask("a", lambda *_: None).result(60)  # whatever waited before has had its turn
    assert sizes == [8, 8] and engine.streams.get("a") is not None


def test_a_request_that_has_begun_is_not_given_up(engine_of, served, images, monkeypatch):
    engine, call = engine_of(served, timeout_s=0.3), SharedModel.__call__
    engine.submit("a", images[:1]).result(60)

    def slow(self, batch, mode):
        time.sleep(0.4)
        return call(self, batch, mode)

    monkeypatch.setattr(SharedModel, "__call__", slow)
    assert len(engine.submit("a", images[:16]).result(60).given) == 16


def test_a_bundle_that_comes_amid_a_request_is_told(engine_of, served, bundle_of, tmp_path, images):
    other = replace(bundle_of("tent"), method="tent", classes=("w", "x", "y", "z"))
    other.save(tmp_path / "other")
    engine = engine_of(served)
    model = SharedModel.load(tmp_path / "other", Wish(device="cpu"))
    engine.submit("a", images[:1]).result(60)
    replies = [engine.submit("a", images[:8])]
    engine.ask("b", lambda *_: engine._renew(model, tmp_path / "other")).result(60)
    replies.append(engine.submit("a", images[:8]))
    pieces = [Future(), Future()]
    gathered = Gathered(pieces)
    for piece, reply in zip(pieces, replies):
        piece.set_result(reply.result(60))
    with pytest.raises(RefusedError, match="another bundle"):
        gathered.future.result(60)


def test_a_batch_that_fails_is_told_and_the_service_goes_on(engine_of, served, images, monkeypatch):
    engine = engine_of(served)
    engine.submit("a", images[:8]).result(60)
    call = SharedModel.__call__

    def failing(self, batch, mode):
        if len(batch) == 3:
            raise RuntimeError("a kernel failed")
        return call(self, batch, mode)

    monkeypatch.setattr(SharedModel, "__call__", failing)
    with pytest.raises(RefusedError, match="the model failed") as caught:
        engine.submit("a", images[:3]).result(60)
    assert caught.value.status == 503
    assert "went back" in engine.streams.get("a").note
    other = engine.submit("b", images[:8]).result(60)
    check_alone(alone(served, True), [(images[:8], other)])
    assert len(engine.submit("a", images[:8]).result(60).given) == 8


def test_a_model_that_does_not_answer_at_first_is_not_ready(
    engine_of, served, images, monkeypatch, caplog
):
    def failing(self):
        raise RuntimeError("too little memory")

    monkeypatch.setattr(SharedModel, "warm_up", failing)
    engine = engine_of(served, wait_ms=200)
    future = engine.submit("a", images[:4])
    assert not engine.ready
    assert len(future.result(60).given) == 4 and engine.ready
    assert "too little memory" in caplog.text


def test_requests_that_waited_too_long_are_refused_and_not_learned_from(engine_of, served, images):
    engine = engine_of(served, timeout_s=0.05, wait_ms=150)
    with pytest.raises(RefusedError, match="waited") as caught:
        engine.submit("a", images[:2]).result(60)
    assert caught.value.status == 503 and engine.streams.get("a") is None


def test_closing_answers_what_waits_and_saves_it(engine_of, served, images, tmp_path):
    engine = engine_of(served, tmp_path / "states", wait_ms=10_000)
    futures = [engine.submit(f"s{n}", images[:4]) for n in range(6)]
    engine.close()
    assert all(len(future.result(0).given) == 4 for future in futures)
    with pytest.raises(RefusedError, match="closing"):
        engine.submit("a", images[:4])
    again = engine_of(served, tmp_path / "states")
    assert {stream.name: stream.images for stream in again.streams.all()} == {
        f"s{n}": 4 for n in range(6)
    }


def test_two_engines_do_not_share_a_folder_of_states(engine_of, served, tmp_path):
    engine_of(served, tmp_path / "states")
    with pytest.raises(InputError, match="another run"):
        engine_of(served, tmp_path / "states")


def test_the_same_bundle_again_lets_streams_go_on(engine_of, served, images):
    engine = engine_of(served)
    sent = [(images[:8], engine.submit("a", images[:8]).result(60))]
    engine.switch()
    sent.append((images[8:16], engine.submit("a", images[8:16]).result(60)))
    check_alone(alone(served, True), sent)


def test_another_bundle_answers_anew_and_says_so(engine_of, served, unguarded, images):
    engine = engine_of(served)
    engine.submit("a", images[:8]).result(60)
    engine.switch(unguarded)
    reply = engine.submit("a", images[:8]).result(60)
    assert reply.mode == "off" and reply.answers.verdict is None
    assert "began anew" in engine.streams.get("a").note
    check_alone(alone(unguarded, False), [(images[:8], reply)])


def test_a_bundle_that_cannot_be_loaded_leaves_the_present_one(engine_of, served, images, tmp_path):
    engine = engine_of(served)
    with pytest.raises(InputError):
        engine.switch(tmp_path / "missing")
    assert len(engine.submit("a", images[:4]).result(60).given) == 4


def test_a_service_without_a_guard_says_so(engine_of, unguarded, served):
    assert "no guard" in engine_of(unguarded).model.note
    assert engine_of(served).model.note is None


@pytest.mark.parametrize("name", ["", "a" * 129, "a/b", "a\n", "\ud800", "\ufffd", ".", ".."])
def test_bad_names_are_refused(engine_of, served, images, name):
    engine = engine_of(served, start=False)
    with pytest.raises(RefusedError):
        engine.submit(name, images[:1])


def test_settings_that_cannot_be_meant_are_refused():
    for bad in ({"batch": 0}, {"wait_ms": -1}, {"stream_images": 1}, {"queue_images": 40}):
        with pytest.raises(InputError):
            replace(SETTINGS, **{"stream_images": 64, "queue_images": 64, **bad})


def test_a_bundle_whose_guard_is_of_an_older_version_is_not_served_without_it(served):
    bundle = Bundle.load(served)
    old = {name: each for name, each in bundle.statistics.items() if ".places." not in name}
    with pytest.raises(InputError, match="of an older version; make a new one"):
        SharedModel(replace(bundle, statistics=old), "old", Wish(device="cpu"))
