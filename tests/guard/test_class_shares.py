"""What the guard makes of knowing how often each class comes."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from acclimate.errors import InputError
from acclimate.guard.class_shares import answers_of, begun, limited, most_right
from acclimate.guard.decide import GuardState, judge
from acclimate.guard.rules import Rules
from acclimate.guard.signals import Recent, signals

from .conftest import CLASSES, answered
from .test_decide import run

KNOWN = Rules(class_shares="as-source")


def averaged(frozen, adapted, chances, images=1e12):
    """What is averaged of a stream, and its plain mean, as if of so many images."""
    each = answers_of(signals(frozen, adapted), chances)
    return each, Recent.of(each.mean(0), images)


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 6), spread=st.floats(0.2, 4))
def test_never_are_more_right_than_may_be(seed, classes, spread):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (200,), generator=draw)
    favoured = spread * torch.randn(2, 1, classes, generator=draw)
    frozen, adapted = favoured + torch.randn(2, 200, classes, generator=draw)
    shares = torch.bincount(labels, minlength=classes) / 200
    each, recent = averaged(frozen, adapted, torch.rand(200, 2, generator=draw))
    most, _ = most_right(each, recent, shares)
    for logits, limit in zip((frozen, adapted), most.T):
        answer = logits.argmax(1)
        for name in answer.unique():
            mine = answer == name
            right = (labels[mine] == name).float().mean()
            assert torch.allclose(limit[mine], limit[mine][0])
            assert right <= limit[mine][0] + 1e-5


def test_what_is_supposed_of_an_answer_is_the_mean_of_its_class():
    frozen, adapted = torch.randn(2, 100, CLASSES)
    chances = torch.rand(100, 2)
    _, supposed = most_right(*averaged(frozen, adapted, chances), torch.full((CLASSES,), 0.2))
    for model, logits in enumerate((frozen, adapted)):
        for name in range(CLASSES):
            mine = logits.argmax(1) == name
            expected = chances[mine, model].mean()
            torch.testing.assert_close(supposed[mine, model], expected.expand(int(mine.sum())))


def test_few_images_allow_a_class_to_be_frequent_by_chance():
    one = torch.zeros(1, CLASSES)
    one[0, 2] = 9.0
    shares = torch.full((CLASSES,), 0.2)
    limits = [
        float(most_right(*averaged(one, one, torch.ones(1, 2), n), shares)[0][0, 0])
        for n in (10, 100, 10_000)
    ]
    assert 0.7 > limits[0] > limits[1] > limits[2] > 0.2


def test_an_average_begins_as_its_images_would_have_it():
    shares = torch.tensor([0.5, 0.25, 0.25, 0.1, 0.6, 0.3])
    found = begun(shares, torch.tensor([0.9, 0.8]))
    expected = [*shares[:3], *(0.9 * shares[:3]), *shares[3:], *(0.8 * shares[3:])]
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize(
    ("odds", "most", "chances", "expected"),
    [
        (-4.0, (1.0, 1.0), (0.5, 0.5), -4.0),  # nothing is known
        (-4.0, (0.1, 1.0), (0.05, 0.9), 2.1972246),  # 0.9 to 0.1
        (-4.0, (0.1, 1.0), (0.1, 0.05), -0.6931472),  # neither is often right: as their chances
        (-1.0, (0.1, 1.0), (0.1, 0.01), -1.0),  # and no nearer to these than need be
        (3.0, (0.1, 1.0), (0.05, 0.9), 3.0),  # no more than that anyway
        (4.0, (1.0, 0.2), (0.9, 0.1), -1.3862944),  # 0.2 to 0.8
        (4.0, (1.0, 0.2), (0.1, 0.2), 0.6931472),
        (-3.0, (1.0, 0.2), (0.9, 0.1), -3.0),
        (4.0, (0.2, 0.1), (0.2, 0.1), -0.6931472),  # both are limited: as their chances
    ],
)
def test_odds_are_kept_to_what_can_be(odds, most, chances, expected):
    given = torch.tensor([most]), *(torch.tensor([each]) for each in chances)
    found = limited(torch.tensor([odds]), *given)
    torch.testing.assert_close(found, torch.tensor([expected]))


def test_of_many_classes_each_answer_may_come_once_in_a_while():
    draw = torch.Generator().manual_seed(0)
    shares, chances = torch.full((1000,), 1e-3), torch.full((64, 2), 0.9)
    recent = Recent.of(begun(shares.repeat(2), chances[0]), 16.0)
    for _ in range(20):
        logits = 9.0 * one_hot(torch.randint(1000, (64,), generator=draw), 1000)
        each = answers_of(signals(logits, logits), chances)
        recent.add(each, torch.ones(64), 64.0)
        most, supposed = most_right(each, recent, shares)
        assert (most / supposed).clamp(max=1).mean() > 0.97


@pytest.mark.parametrize("batch", [1, 40, 400])
def test_a_certain_frozen_classifier_that_gives_one_class_is_found_out(calibration, batch):
    other = answered("other", 0.9, 0.8, seed=5)
    one = torch.zeros_like(other.frozen)
    one[:, 2] = 5.0
    lost = dataclasses.replace(other, frozen=one)
    _, (frozen, adapted, guarded) = run(calibration, lost, batch)
    assert guarded == pytest.approx(frozen, abs=0.05) and adapted > frozen + 0.4
    verdicts, (*_, guarded) = run(calibration, lost, batch, KNOWN)
    assert guarded > adapted - 0.12
    found = verdicts[-1].estimate.frozen
    assert found.low <= frozen <= found.high and found.value < frozen + 0.1


@pytest.mark.parametrize("shares", [(0.35, 0.75), (0.9, 0.85), (0.8, 0.3)])
def test_where_both_give_all_classes_little_changes(calibration, shares):
    other = answered("other", *shares, seed=90)
    (*_, plain), (*_, known) = (run(calibration, other, 40, rules)[1] for rules in (None, KNOWN))
    assert known == pytest.approx(plain, abs=0.02)


def test_an_even_model_that_is_never_right_gains_nothing_from_it(calibration):
    """The frozen classifier gives two classes, and is right about these."""
    labels = torch.arange(400) % CLASSES
    given = torch.where(labels < 2, labels, (labels + torch.arange(400) // CLASSES) % 2)
    wrong = (labels + 1 + torch.arange(400) // CLASSES % (CLASSES - 1)) % CLASSES
    other = dataclasses.replace(
        answered("other", 0.5, 0.5),
        frozen=9.0 * one_hot(given, CLASSES),
        adapted=1.0 * one_hot(wrong, CLASSES),
    )
    for batch in (1, 40):
        verdicts, (frozen, adapted, guarded) = run(calibration, other, batch, KNOWN)
        assert (frozen, adapted) == (0.4, 0.0) and guarded > 0.37
        assert verdicts[-1].answer == "frozen"


def test_a_class_that_the_frozen_classifier_never_gives_may_come(calibration):
    """On clean images the adapted model gives it as often as others."""
    other = answered("other", 0.6, 0.9, seed=5)
    blind = other.frozen.clone()
    blind[:, 1] = -9.0
    usual = calibration.usual.clone()
    usual[3:5] = torch.tensor([0.4, 0.0])
    other, calibration = (
        dataclasses.replace(other, frozen=blind),
        dataclasses.replace(calibration, usual=usual),
    )
    (*_, plain), (*_, known) = (run(calibration, other, 40, rules)[1] for rules in (None, KNOWN))
    assert known > plain - 0.02


@pytest.mark.parametrize("rules", [KNOWN, Rules()])
def test_of_its_answers_those_of_images_it_saw_are_averaged_if_that_is_known(calibration, rules):
    other = answered("other", 0.6, 0.7, seed=5)
    kept = torch.arange(400) % 2 == 0
    states = []
    for rows in (slice(None), kept):
        state = GuardState.new(calibration)
        before = state.answers.total.clone()
        given = (each[rows] for each in (other.frozen, other.adapted, other.looks, kept))
        judge(*given, calibration, state, rules)
        states.append(state.answers.total)
    torch.testing.assert_close(*states)
    assert torch.equal(states[0], before) == (rules.class_shares == "any")


def test_what_cannot_be_known_is_refused():
    with pytest.raises(InputError, match="unknown class_shares 'even'"):
        Rules(class_shares="even").check()
