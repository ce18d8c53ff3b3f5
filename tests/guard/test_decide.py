import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.adapt.state import State
from acclimate.errors import InputError
from acclimate.guard.calibration import calibrated, seen
from acclimate.guard.decide import GuardState, Spent, judge
from acclimate.guard.estimate import chances, views
from acclimate.guard.labels import KEPT
from acclimate.guard.rules import Rules
from acclimate.guard.signals import signals

from .conftest import CLASSES, answered

USUAL = torch.zeros(400, 5)  # images that look as source images do


def run(calibration, other, batch=40, rules=None):
    """Verdicts of a stream, and the share of right answers of both and of the guarded."""
    state = GuardState.new(calibration)
    verdicts = [
        judge(
            f, a, look, torch.ones(len(f), dtype=torch.bool), calibration, state, rules or Rules()
        )
        for f, a, look in zip(*(e.split(batch) for e in (other.frozen, other.adapted, other.looks)))
    ]
    chosen = torch.cat([v.use_adapted for v in verdicts])
    given = torch.where(chosen[:, None], other.adapted, other.frozen)
    truth = other.truth.argmax(1)
    every = (other.frozen, other.adapted, given)
    return verdicts, [float((logits.argmax(1) == truth).double().mean()) for logits in every]


@pytest.mark.parametrize("batch", [1, 7, 40, 400])
@pytest.mark.parametrize("shares", [(0.35, 0.75), (0.9, 0.85), (0.6, 0.2), (0.85, 0.2)])
def test_answers_are_about_as_good_as_the_better_ones(calibration, shares, batch):
    grouped = shares[1] == 0.2
    other = answered("other", *shares, grouped=grouped, seed=90)
    _, (frozen, adapted, guarded) = run(calibration, other, batch)
    assert guarded > max(frozen, adapted) - 0.06
    assert guarded > frozen - 0.03


def test_a_harmful_model_is_rolled_back_with_a_reason(calibration):
    verdicts, _ = run(calibration, answered("other", 0.95, 0.1, grouped=True, seed=5))
    last = verdicts[-1]
    assert (last.answer, last.learning) == ("frozen", "roll back")
    assert not last.use_adapted.any()
    assert last.reason.endswith("it does harm.") and last.reason.count(".") == 1


def test_a_collapsed_model_is_rolled_back(calibration):
    other = answered("other", 0.9, 0.8, seed=5)
    one = torch.zeros_like(other.adapted)
    one[:, 2] = 20.0  # as certain as can be
    verdicts, (frozen, _, guarded) = run(
        calibration, dataclasses.replace(other, adapted=one), batch=100
    )
    assert verdicts[-1].learning == "roll back"
    assert verdicts[-1].reason.endswith("it has collapsed.")
    assert guarded == frozen


def test_of_a_certain_frozen_classifier_that_is_lost_the_estimate_says_how_little_it_knows(
    calibration,
):
    """A shift makes it give one class to all images, with certainty."""
    other = answered("other", 0.9, 0.7, seed=5)
    one = torch.zeros_like(other.frozen)
    one[:, 2] = 9.0
    verdicts, (frozen, *_) = run(calibration, dataclasses.replace(other, frozen=one))
    found = verdicts[-1].estimate.frozen
    assert found.low <= frozen <= found.high and found.high - found.low > 0.3
    usual = run(calibration, answered("other", 0.9, 0.88, seed=5))[0][-1].estimate.frozen
    assert usual.high - usual.low < 0.25


def test_without_adapted_answers_nothing_is_sure_of_the_adapted_model(calibration):
    """As with single images, which methods that normalise by the batch alone do not see."""
    other, state = answered("other", 0.9, 0.8, seed=5), GuardState.new(calibration)
    none, every = torch.zeros(40, dtype=torch.bool), torch.ones(40, dtype=torch.bool)
    for part in other.frozen.split(40):
        verdict = judge(part, part, USUAL[: len(part)], none, calibration, state, Rules())
    found = verdict.estimate
    assert found.adapted.high - found.adapted.low > 0.25
    assert found.frozen.high - found.frozen.low < 0.25
    for part in other.frozen.split(40):
        verdict = judge(part, part, USUAL[: len(part)], every, calibration, state, Rules())
    assert verdict.estimate.adapted.high - verdict.estimate.adapted.low < 0.25


def test_without_an_adapted_answer_the_frozen_confidence_alone_counts(calibration):
    other = answered("other", 0.5, 0.7, seed=5)
    each = signals(other.frozen, other.adapted)
    recent, alike = each.mean(0), calibration.places.alike(other.looks.mean(0))
    found = views(calibration, each, recent, alike, torch.arange(400) < 200)
    frozen, adapted, guarded, apart, of_given = chances(found, torch.ones(400)).T
    own = calibration.frozen(seen(each, recent), alike)
    assert torch.equal(frozen[200:], own[200:]) and not apart[200:].any()
    assert torch.allclose(frozen[:200] + apart[:200], own[:200]) and apart[:200].abs().amax() > 0.1
    assert torch.allclose(guarded, adapted) and not of_given.any()  # adapted answers are given


def test_images_that_were_not_adapted_to_get_the_frozen_answer_and_count_nothing(calibration):
    other = answered("other", 0.3, 0.8, seed=5)
    state, again = GuardState.new(calibration), GuardState.new(calibration)
    kept = torch.arange(400) % 2 == 0
    verdict = judge(other.frozen, other.adapted, other.looks, kept, calibration, state, Rules())
    assert not verdict.use_adapted[~kept].any()
    every = torch.ones(200, dtype=torch.bool)
    parts = (each[kept] for each in (other.frozen, other.adapted, other.looks))
    alone = judge(*parts, every, calibration, again, Rules())
    assert verdict.share == pytest.approx(alone.share, abs=1e-5)
    assert torch.equal(verdict.use_adapted[kept], alone.use_adapted)


def test_where_nothing_ever_differs_the_share_stays(calibration):
    same = answered("other", 0.9, 0.9, seed=5).frozen[:100]
    state = GuardState.new(calibration)
    for _ in range(300):
        verdict = judge(
            same, same, USUAL[:100], torch.ones(100).bool(), calibration, state, Rules()
        )
    assert verdict.share == pytest.approx(0.4, abs=1e-3) and verdict.agreement == pytest.approx(1)


def test_a_state_that_was_kept_gives_the_same_future(calibration):
    other = answered("other", 0.5, 0.6, seed=5)
    every = torch.ones(100, dtype=torch.bool)
    state = GuardState.new(calibration)
    every_part = (other.frozen, other.adapted, other.looks)
    parts = list(zip(*(each.split(100) for each in every_part)))
    judge(*parts[0], every, calibration, state, Rules())
    kept = {name: tensor.clone() for name, tensor in state.tensors().items()}
    first = judge(*parts[1], every, calibration, state, Rules())
    again = GuardState.new(calibration)
    State({}, again.tensors()).load(kept)
    second = judge(*parts[1], every, calibration, again, Rules())
    assert torch.equal(first.use_adapted, second.use_adapted) and first.share == second.share
    assert first.estimate == second.estimate


@pytest.mark.parametrize(
    ("budget", "spent", "expected"),
    [
        ({"most_steps": 10}, Spent(steps=9), ("go on", "adapted", ".")),
        ({"most_steps": 10}, Spent(steps=10), ("hold", "adapted", "; after 10 steps nothing")),
        ({"most_distance": 0.1}, Spent(distance=0.09), ("go on", "adapted", ".")),
        ({"most_distance": 0.1}, Spent(distance=0.12), ("roll back", "frozen", "are 12.0% away")),
        ({"most_changed": 0.9}, Spent(), ("go on", "adapted", ".")),
        ({"most_changed": 0.2}, Spent(), ("go on", "frozen", "the budget is 20%.")),
        ({"most_steps": 0, "most_changed": 0.2}, Spent(), ("hold", "frozen", "20%; after 0 steps")),
    ],
)
def test_a_budget_is_kept(calibration, budget, spent, expected):
    other = answered("other", 0.35, 0.75, seed=5)
    state = GuardState.new(calibration)
    every = torch.ones(400, dtype=torch.bool)
    given = other.frozen, other.adapted, other.looks, every, calibration, state, Rules(**budget)
    verdict = judge(*given, spent=spent)
    assert (verdict.learning, verdict.answer) == expected[:2]
    assert expected[2] in verdict.reason and verdict.reason.endswith(".")
    assert verdict.use_adapted.all() == (expected[1] == "adapted")


def test_a_budget_that_cannot_be_meant_is_refused():
    for name in ("most_steps", "most_distance", "most_changed"):
        with pytest.raises(InputError, match=f"{name} must be 0 or more"):
            Rules(**{name: -1}).check()


def test_the_state_does_not_grow(calibration):
    state = GuardState.new(calibration)
    size = sum(tensor.nbytes for tensor in state.tensors().values())
    averages, kept = (3 + 6 * CLASSES + 5 + 2 + 6 + 8 + 2) + (3 + 1 + 4), KEPT * (4 * (2 + 4) + 1)
    assert size == 4 * averages + kept < 32 * 2**10
    run_on = answered("other", 0.5, 0.6, seed=5)
    judge(
        run_on.frozen,
        run_on.adapted,
        run_on.looks,
        torch.ones(400).bool(),
        calibration,
        state,
        Rules(),
    )
    assert sum(tensor.nbytes for tensor in state.tensors().values()) == size


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_every_verdict_is_consistent(calibration, seed, sizes):
    generator = torch.Generator().manual_seed(seed)
    state = GuardState.new(calibration)
    for size in sizes:
        frozen, adapted = (8 * torch.randn(size, CLASSES, generator=generator) for _ in range(2))
        kept = torch.rand(size, generator=generator) < 0.8
        shown = 10 * torch.randn(size, 5, generator=generator)
        verdict = judge(frozen, adapted, shown, kept, calibration, state, Rules())
        assert 0 <= verdict.share <= 1 and not (verdict.use_adapted & ~kept).any()
        if verdict.answer == "frozen":
            assert not verdict.use_adapted.any()
        if verdict.answer == "adapted":
            assert torch.equal(verdict.use_adapted, kept)
        assert verdict.reason.endswith(".")
        for each in (verdict.estimate.frozen, verdict.estimate.adapted, verdict.estimate.guarded):
            assert 0 <= each.low <= each.value <= each.high <= 1


@pytest.mark.parametrize(
    "wrong", [{"frozen_below": 0.9}, {"worse_below": -0.1}, {"estimate_half_life": 0.0}]
)
def test_rules_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(InputError, match=r"must be"):
        Rules(**wrong).check()


def test_what_was_seen_of_images_that_look_so_counts_more_than_what_holds_in_general(sets):
    """Two changes give the same answers; under one of them the adapted ones are wrong."""
    good = answered("other", 0.35, 0.75, seed=5)
    bad = dataclasses.replace(good, truth=good.truth.roll(1, 1), looks=good.looks + 9)
    known = [*sets, *(dataclasses.replace(e, by_sight=True) for e in (good, bad))]
    right = bad.frozen.softmax(1).lerp(bad.truth, 0.1)
    known[-1] = dataclasses.replace(known[-1], truth=right)
    found = calibrated(known)
    verdicts, _ = run(found, good)
    assert verdicts[-1].answer == "adapted"
    verdicts, _ = run(found, known[-1])
    assert verdicts[-1].answer == "frozen"
    elsewhere = dataclasses.replace(good, looks=good.looks - 99)
    verdicts, _ = run(found, elsewhere)
    assert verdicts[-1].answer == "adapted"  # as the curve says of any stream
