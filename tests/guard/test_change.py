import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.adapt.state import State
from acclimate.guard.change import REFERENCE, SCORES, ChangeState, scores, watch


def stream(count, moved=0.0, seed=0, score=3):
    values = torch.randn(count, len(SCORES), generator=torch.Generator().manual_seed(seed))
    values[:, score] += moved
    return values


def found_at(values, batch):
    """The images, counted from 1, at which changes are found."""
    state, done, found = ChangeState.new(), 0, []
    for part in values.split(batch):
        before = int(state.since)
        change = watch(part, state)
        if change.found:
            found.append(done + change.since - before)
        done += len(part)
    return found


def slow(values):
    """Image by image."""
    reference, wealth, found = [], {}, []
    for number, row in enumerate(values.tolist(), 1):
        if len(reference) < REFERENCE:
            reference.append(row)
            continue
        for score, value in enumerate(row):
            others = [each[score] for each in reference]
            below = sum(v < value for v in others)
            up_to = sum(v <= value for v in others)
            rank = (0.5 * (below + up_to) + 0.5) / (REFERENCE + 1)
            for bet in (-1.8, 1.8):
                won = wealth.get((score, bet), 0.0) + math.log(1 + bet * (rank - 0.5))
                wealth[score, bet] = max(won, 0.0)
        if max(wealth.values()) >= 20:
            found.append(number)
            reference, wealth = [], {}
    return found


def test_it_is_the_plain_loop():
    values = torch.cat([stream(400), stream(500, 2.0, 1), stream(300, -1.0, 2, score=0)])
    expected = slow(values)
    assert len(expected) >= 2
    assert found_at(values, 1) == expected
    assert found_at(values, 50) == expected


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 200), st.integers(0, 100))
def test_changes_do_not_depend_on_the_batch(batch, seed):
    values = torch.cat([stream(350, seed=seed), stream(350, 1.5, seed + 1)])
    assert found_at(values, batch) == found_at(values, 7)


def test_a_change_is_found_soon_and_named():
    state = ChangeState.new()
    assert not watch(stream(1000), state).found
    change = watch(stream(100, 2.0, 1), state)
    assert change.found and change.score == "colour" and 1000 < change.since < 1100
    assert int(state.filled) < 100


def test_nothing_is_found_where_nothing_changes():
    assert sum(len(found_at(stream(20_000, seed=seed), 500)) for seed in range(5)) == 0


def test_the_state_comes_back():
    state, again = ChangeState.new(), ChangeState.new()
    watch(stream(300), state)
    State({}, again.tensors()).load(state.tensors())
    assert watch(stream(90, 1.0, 5), state) == watch(stream(90, 1.0, 5), again)


def test_scores_tell_noise_from_blur():
    generator = torch.Generator().manual_seed(0)
    flat = torch.rand(4, 3, 1, 1, generator=generator).expand(-1, -1, 16, 16)
    noise = (flat + 0.2 * torch.randn(4, 3, 16, 16, generator=generator)).clamp(0, 1)
    blurred = torch.nn.functional.avg_pool2d(noise, 3, 1, 1)
    logits = torch.zeros(4, 10)
    noisy, smooth = scores(noise, logits), scores(blurred, logits)
    assert (noisy[:, 4:] > smooth[:, 4:]).all()
    bytes_too = scores((noise * 255).round().to(torch.uint8), logits)
    torch.testing.assert_close(bytes_too, noisy, atol=0.02, rtol=0)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_scores_are_finite_for_any_image(channels):
    for image in (torch.zeros(2, channels, 3, 3), torch.ones(2, channels, 40, 5)):
        assert scores(image, torch.randn(2, 7)).isfinite().all()
