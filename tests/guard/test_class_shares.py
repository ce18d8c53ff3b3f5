"""What the guard makes of knowing how often each class comes."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.errors import InputError
from acclimate.guard.class_shares import answers_of, begun, limited, most_right
from acclimate.guard.decide import GuardState, Rules
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
    assert 0.5 > limits[0] > limits[1] > limits[2] > 0.2


def test_an_average_begins_as_its_images_would_have_it():
    shares = torch.tensor([0.5, 0.25, 0.25, 0.1, 0.6, 0.3])
    found = begun(shares, torch.tensor([0.9, 0.8]))
    expected = [*shares[:3], *(0.9 * shares[:3]), *shares[3:], *(0.8 * shares[3:])]
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize(
    ("odds", "frozen", "adapted", "expected"),
    [
        (-4.0, 1.0, 1.0, -4.0),  # nothing is known
        (-4.0, 0.1, 1.0, 2.1972246),  # 0.9 to 0.1
        (3.0, 0.1, 1.0, 3.0),  # no more than that anyway
        (4.0, 1.0, 0.2, -1.3862944),  # 0.2 to 0.8
        (-3.0, 1.0, 0.2, -3.0),
        (4.0, 0.2, 0.1, -0.6931472),  # neither can have the rest: 0.1 to 0.2
    ],
)
def test_odds_are_kept_to_what_can_be(odds, frozen, adapted, expected):
    found = limited(torch.tensor([odds]), torch.tensor([[frozen, adapted]]))
    torch.testing.assert_close(found, torch.tensor([expected]))


@pytest.mark.parametrize("batch", [1, 40, 400])
def test_a_certain_frozen_classifier_that_gives_one_class_is_found_out(calibration, batch):
    other = answered("other", 0.9, 0.7, seed=5)
    one = torch.zeros_like(other.frozen)
    one[:, 2] = 9.0
    lost = dataclasses.replace(other, frozen=one)
    _, (frozen, adapted, guarded) = run(calibration, lost, batch)
    assert guarded == pytest.approx(frozen, abs=0.05) and adapted > frozen + 0.4
    verdicts, (*_, guarded) = run(calibration, lost, batch, KNOWN)
    assert guarded > adapted - 0.06
    found = verdicts[-1].estimate.frozen
    assert found.low <= frozen <= found.high and found.value < frozen + 0.1


@pytest.mark.parametrize("shares", [(0.35, 0.75), (0.9, 0.85), (0.8, 0.3)])
def test_where_both_give_all_classes_little_changes(calibration, shares):
    other = answered("other", *shares, seed=90)
    (*_, plain), (*_, known) = (run(calibration, other, 40, rules)[1] for rules in (None, KNOWN))
    assert known == pytest.approx(plain, abs=0.02)


def test_without_that_knowledge_nothing_of_it_is_kept(calibration):
    state = GuardState.new(calibration)
    before = state.answers.total.clone()
    run(calibration, answered("other", 0.9, 0.7, seed=5))
    assert torch.equal(state.answers.total, before)


def test_what_cannot_be_known_is_refused():
    with pytest.raises(InputError, match="unknown class_shares 'even'"):
        Rules(class_shares="even").check()
