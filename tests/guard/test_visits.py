"""What is learned comes back with the shift that it was learned from."""

from dataclasses import replace

import pytest
import torch

from acclimate.adapt import Adapter
from acclimate.errors import InputError
from acclimate.guard import change
from acclimate.guard import state as states
from acclimate.guard.guard import Guard
from acclimate.guard.rules import Rules
from acclimate.guard.visits import MOST, Visits

ALWAYS = Rules(frozen_below=0.0, adapted_above=0.0, worse_below=0.0, fewest_classes=0.0)


def part(mean, seed=0, images=200):
    generator = torch.Generator().manual_seed(seed)
    return mean + torch.randn(images, 6, generator=generator)


def test_parts_are_recognised_and_the_oldest_gives_way():
    visits = Visits({"w": torch.zeros(1)}, 6, torch.device("cpu"))
    assert visits.recognised(part(0.0)) is None
    for number in range(MOST + 1):
        visits.keep(part(3.0 * number, number), {"w": torch.tensor([float(number)])})
    assert visits.recognised(part(0.0, 9)) is None
    for number in range(1, MOST + 1):
        assert visits.recognised(part(3.0 * number, 9))["w"] == number
    assert visits.recognised(part(4.5, 9)) is None
    visits.keep(part(6.0, 8), {"w": torch.tensor([7.0])})  # the same part again: no other goes
    assert [float(visits.recognised(part(3.0 * n, 9))["w"]) for n in (1, 2, 3, 4)] == [1, 7, 3, 4]


def test_a_state_does_not_grow():
    visits = Visits({"w": torch.zeros(5)}, 6, torch.device("cpu"))
    before = sum(tensor.nbytes for tensor in visits.tensors().values())
    for number in range(9):
        visits.keep(part(3.0 * number), {"w": torch.ones(5)})
    assert sum(tensor.nbytes for tensor in visits.tensors().values()) == before


def turns(guard, images, parts, batches=6):
    """What became of what was learned, over bright and dark parts of a stream."""
    draw, found = torch.Generator().manual_seed(0), []
    for dark in parts:
        for _ in range(batches):
            batch = images[torch.randint(0, 160, (64,), generator=draw)]
            guard(batch // 2 if dark else batch)
            found.append(guard.decisions[-1]["turned"])
    return [word for word in found if word]


@pytest.mark.parametrize(
    ("at_change", "expected"),
    [
        ("go-on", []),
        ("restart", ["restarted"] * 2),
        ("come-back", ["restarted", "restarted", "came back"]),
    ],
)
def test_what_becomes_of_what_was_learned(guarded, images, monkeypatch, at_change, expected):
    monkeypatch.setattr(states, "GOOD_EVERY", 64)
    bundle = guarded("tent")
    guard = Guard(Adapter(bundle, "tent"), bundle, rules=replace(ALWAYS, at_change=at_change))
    assert turns(guard, images, [False, True, False]) == expected


def test_a_part_is_kept_by_all_its_scores_though_they_came_with_the_change(
    guarded, images, monkeypatch
):
    """A batch that completes the reference and shows the change: no row of it is missing."""
    bundle, kept = guarded("tent"), []
    guard = Guard(Adapter(bundle, "tent"), bundle, rules=replace(ALWAYS, at_change="come-back"))
    monkeypatch.setattr(Visits, "keep", lambda self, scores, learned: kept.append(scores))
    first = images[torch.randint(0, 160, (400,), generator=torch.Generator().manual_seed(0))]
    guard(torch.cat([first[:300], first[300:] // 2]))
    assert guard.change.found
    expected = change.scores(guard.adapter.preprocessing.unit(first[:256]), guard.both[0][:256])
    torch.testing.assert_close(kept, [expected])


def test_after_a_restart_the_adapter_is_new(guarded, images):
    bundle = guarded("tent")
    guard = Guard(Adapter(bundle, "tent"), bundle, rules=replace(ALWAYS, at_change="restart"))
    new = guard.adapter.snapshot().tensors
    while not guard.decisions or not guard.decisions[-1]["turned"]:
        turns(guard, images, [len(guard.decisions) >= 6], 1)
    after = guard.adapter.snapshot().tensors
    assert all(torch.equal(after[name], new[name]) for name in new)


def test_streams_keep_their_visits_apart(guarded, images, monkeypatch):
    monkeypatch.setattr(states, "GOOD_EVERY", 64)
    bundle, rules = guarded("tent"), replace(ALWAYS, at_change="come-back")
    guard, other = (Guard(Adapter(bundle, "tent"), bundle, rules=rules) for _ in range(2))
    turns(guard, images, [False, True])
    state = guard.snapshot()
    first = turns(guard, images, [False])
    other.swap(state)
    assert turns(other, images, [False]) == first == ["restarted", "came back"]
    mine, theirs = guard.snapshot().tensors, other.snapshot().tensors
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(InputError, match="unknown at_change 'again'"):
        Rules(at_change="again").check()
