"""A guard's state: what it holds, and how it comes back."""

from dataclasses import replace

import pytest
import torch

from acclimate.adapt import Adapter
from acclimate.errors import InputError
from acclimate.guard import state as states
from acclimate.guard.guard import Guard
from acclimate.guard.rules import Rules

ALWAYS = Rules(frozen_below=0.0, adapted_above=0.0, worse_below=0.0, fewest_classes=0.0)
HARMED = Rules(frozen_below=1.0, adapted_above=1.0, worse_below=1.0, fewest_classes=0.0)


def guard_of(bundle, name, rules=None):
    return Guard(Adapter(bundle, name, precision="fp32"), bundle, rules=rules)


def outcome(guard, images):
    """All that a guard says of a batch: answers, decision, estimates, change, line of the log."""
    answers = guard(images)
    chosen, verdict = guard.verdict.use_adapted, replace(guard.verdict, use_adapted=None)
    line = {name: value for name, value in guard.decisions[-1].items() if name != "time"}
    return answers, chosen, verdict, guard.change, line


def same(first, second):
    tensors = [torch.equal(mine, theirs) for mine, theirs in zip(first[:2], second[:2])]
    return all(tensors) and first[2:] == second[2:]


def shifted(images, which):
    """A part of the images for one turn; every second stream is dark, and has a covered camera."""
    batch = images[: 3 + 5 * (which + 1)].clone()
    if which % 2:
        batch = batch // 3
        batch[1] = 0
    return batch


@pytest.mark.parametrize("rules", [None, ALWAYS, HARMED], ids=["usual", "always", "harmed"])
@pytest.mark.parametrize("name", ["acclimate", "tent", "rotta", "cta"])
def test_one_guard_serves_streams_as_one_guard_each_would(
    guarded, images, monkeypatch, name, rules
):
    monkeypatch.setattr(states, "GOOD_EVERY", 20)
    bundle = guarded(name)
    shared = guard_of(bundle, name, rules)
    streams = [shared.snapshot() for _ in range(2)]
    own = [guard_of(bundle, name, rules) for _ in range(2)]
    for turn, which in enumerate([0, 1, 1, 0, 1, 0, 0, 1, 0, 1]):
        batch = shifted(images[10 * turn :], which)
        shared.swap(streams[which])
        found = outcome(shared, batch)
        shared.swap(streams[which])
        assert same(found, outcome(own[which], batch))
        assert shared.verdict is None and shared.change is None
    assert all(
        torch.equal(tensor, streams[which].tensors[name])
        for which in range(2)
        for name, tensor in own[which].snapshot().tensors.items()
    )


def test_streams_whose_changes_are_found_keep_them_apart(guarded, images):
    bundle = guarded("tent")
    shared, own = guard_of(bundle, "tent"), [guard_of(bundle, "tent") for _ in range(2)]
    streams = [shared.snapshot() for _ in range(2)]
    found = [0, 0]
    odd = torch.arange(64).byte()[:, None, None, None] % 2
    for number in range(8):
        for which in range(2):
            batch = images[(torch.arange(64) + 64 * number) % 160]
            batch = (batch // 2 if which and number >= 5 else batch) + odd
            shared.swap(streams[which])
            mine = outcome(shared, batch)
            shared.swap(streams[which])
            theirs = outcome(own[which], batch)
            assert same(mine, theirs)
            found[which] += mine[3].found
    assert found == [0, 1]


@pytest.mark.parametrize("name", ["tent", "acclimate"])
def test_a_state_of_normalisation_alone_takes_kilobytes(guarded, name):
    guard = guard_of(guarded(name), name)
    state = guard.snapshot()
    assert state.nbytes <= 2 * guard.adapter.snapshot().nbytes + 36 * 2**10
    assert all("." in name for name in state.tensors)


def test_a_state_does_not_grow(guarded, images):
    guard = guard_of(guarded("tent"), "tent")
    before = guard.snapshot()
    for batch in images.split(16):
        guard(batch)
    after = guard.snapshot()
    assert before.tensors.keys() == after.tensors.keys() and before.nbytes == after.nbytes


def test_a_state_goes_back_and_again(guarded, images):
    guard = guard_of(guarded("tent"), "tent")
    guard(images[:8])
    state = guard.snapshot()
    first = outcome(guard, images[8:16])
    for _ in range(2):
        guard.restore(state)
        assert guard.verdict is None and guard.change is None
        assert same(outcome(guard, images[8:16]), first)


def test_a_state_that_was_saved_has_the_same_future(guarded, images, tmp_path):
    first, second = (guard_of(guarded("tent"), "tent") for _ in range(2))
    first(images[:8]), first(images[8:16])
    first.save(tmp_path / "state")
    second.load(tmp_path / "state")
    assert same(outcome(first, images[16:24]), outcome(second, images[16:24]))
    assert second.decisions[-1]["first"] == 16


def test_a_state_of_another_guard_made_alike_may_be_swapped_in(guarded, images):
    """As a service does with a stream that it had put away."""
    first, second = (guard_of(guarded("tent"), "tent") for _ in range(2))
    first(images[:8])
    state = first.snapshot()
    first.restore(state)
    second(images[40:60])
    second.swap(state)
    assert same(outcome(first, images[8:16]), outcome(second, images[8:16]))


def test_a_state_of_an_older_version_is_refused_and_changes_nothing(guarded, images):
    guard = guard_of(guarded("tent"), "tent")
    guard(images[:16])
    state = guard.snapshot()
    own = {name: value for name, value in state.belongs["guard"].items() if name != "form"}
    state = replace(state, belongs={**state.belongs, "guard": own})
    guard(images[16:32])
    now = guard.adapter.snapshot().tensors
    for take in (guard.restore, guard.swap):
        with pytest.raises(InputError, match="of an older version"):
            take(state)
    for name, tensor in guard.adapter.snapshot().tensors.items():
        assert torch.equal(tensor, now[name])


def test_a_state_of_another_guard_is_refused(guarded, images, tmp_path):
    bundle = guarded("tent")
    guard = guard_of(bundle, "tent")
    before = guard.snapshot()
    for other, reason in (
        (guard_of(bundle, "tent", ALWAYS).snapshot(), "other rules"),
        (Adapter(bundle, "tent", precision="fp32").snapshot(), "no state of a guard"),
        (guard_of(guarded("ptbn"), "ptbn").snapshot(), "of the method ptbn"),
    ):
        for takes in (guard.restore, guard.swap):
            with pytest.raises(InputError, match=reason):
                takes(other)
    Adapter(bundle, "tent").save(tmp_path / "adapter")
    with pytest.raises(InputError, match="no state of a guard"):
        guard.load(tmp_path / "adapter")
    after = guard.snapshot()
    assert all(torch.equal(tensor, after.tensors[name]) for name, tensor in before.tensors.items())
