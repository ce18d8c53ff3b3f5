import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from acclimate.randomness import MovingKey, key, normal, permutation, uniform

ROWS = torch.arange(50_000)
WORD = 2**64


def splitmix(z):
    """SplitMix64's finaliser on Python's integers."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**40), st.integers(1, 40))
def test_uniform_is_the_hash_of_key_row_and_column(number, row, columns):
    golden = 0x9E3779B97F4A7C15
    start = splitmix((row * golden + number) % WORD)
    expected = [
        (splitmix((start + (column + 1) * golden) % WORD) >> 8 & 0xFFFFFF) / 2**24
        for column in range(columns)
    ]
    assert uniform(number, torch.tensor([row]), columns)[0].tolist() == expected


def test_uniform_numbers_are_uniform():
    found = uniform(key(0, "test"), ROWS, 4)
    assert found.shape == (50_000, 4) and found.dtype == torch.float32
    assert found.min() >= 0 and found.max() < 1
    for column in found.double().T:
        assert column.mean().item() == pytest.approx(1 / 2, abs=4 * (1 / 12 / 50_000) ** 0.5)
        assert column.var().item() == pytest.approx(1 / 12, rel=0.02)
        assert stats.kstest(column.numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("count", [1, 2, 5])
def test_normal_numbers_are_normal(count):
    found = normal(key(0, "test"), ROWS, count)
    assert found.shape == (50_000, count) and found.dtype == torch.float32
    assert found.isfinite().all()
    for column in found.double().T:
        assert column.mean().item() == pytest.approx(0, abs=4 / 50_000**0.5)
        assert column.var().item() == pytest.approx(1, rel=0.03)
        assert stats.kstest(column.numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("draw", [uniform, normal])
def test_columns_rows_and_keys_are_uncorrelated(draw):
    first, second = (draw(key(seed, "test"), ROWS, 6).double() for seed in (0, 1))
    neighbours = draw(key(0, "test") + 1, ROWS, 6).double()
    table = torch.cat([first[:-1], first[1:], second[:-1], neighbours[:-1]], dim=1)
    for values in (table, table.square()):
        off_diagonal = values.T.corrcoef() - torch.eye(table.shape[1])
        assert off_diagonal.abs().max() < 5 / 50_000**0.5


@pytest.mark.parametrize("draw", [uniform, normal])
def test_a_row_depends_on_its_index_alone(draw):
    number = key(3, "test")
    everything = draw(number, ROWS[:100], 7)
    chosen = torch.tensor([41, 5, 99, 5])
    assert torch.equal(draw(number, chosen, 7), everything[chosen])
    assert torch.equal(draw(number, chosen.int(), 7), everything[chosen])
    torch.randn(3)  # no hidden state
    assert torch.equal(draw(number, ROWS[:100], 7), everything)
    assert draw(number, ROWS[:0], 7).shape == (0, 7)


def test_more_uniform_numbers_begin_with_the_fewer():
    assert torch.equal(uniform(1, ROWS[:10], 9)[:, :4], uniform(1, ROWS[:10], 4))


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 300))
def test_permutation_is_one(number, count):
    assert sorted(permutation(number, count).tolist()) == list(range(count))
    assert torch.equal(permutation(number, count), permutation(number, count))


def test_permutations_are_fair():
    first = torch.stack([permutation(key(seed, "test"), 8) for seed in range(800)])
    for column in first.T:
        assert stats.chisquare(column.bincount(minlength=8).numpy()).pvalue > 1e-4


def test_keys_differ_in_seed_and_purpose():
    keys = [
        key(0),
        key(1),
        key(-1),
        key(0, "crop"),
        key(0, "flip"),
        key(0, "crop", 1),
        key(0, "crop", 2),
        key(0, "crop", 12),
        key(0, "crop", 1, 2),
        key(0, "crop1"),
        key(0, 1, "crop"),
        key(1, "crop"),
        key(10, "crop"),
    ]
    assert len(set(keys)) == len(keys)
    assert all(-(2**63) <= k < 2**63 for k in keys)
    assert key(7, "crop", 3) == key(7, "crop", 3)


def test_key_is_the_same_in_every_process_and_version():
    assert key(0, "crop", 1) == -5382187398449908168


def test_a_moving_key_gives_the_numbers_of_what_it_is():
    moving = MovingKey(key(3, "epoch", 0), torch.device("cpu"))
    views = key(key(moving, "views"), "turns", 2)
    for epoch in (0, 1, -5):
        plain = key(3, "epoch", epoch)
        moving.change(plain)
        for found, expected in ((moving, plain), (views, key(key(plain, "views"), "turns", 2))):
            assert torch.equal(uniform(found, ROWS[:50], 3), uniform(expected, ROWS[:50], 3))
            assert torch.equal(normal(found, ROWS[:50], 3), normal(expected, ROWS[:50], 3))
            assert torch.equal(normal(found.value, ROWS[:50], 3), normal(expected, ROWS[:50], 3))
            assert found % 7 == expected % 7
        assert key(key(moving, "views"), "turns", 2) is views


def test_a_key_is_not_derived_for_the_first_time_in_a_graph(monkeypatch):
    moving = MovingKey(5, torch.device("cpu"))
    known = key(moving, "views")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert key(moving, "views") is known
    with pytest.raises(RuntimeError, match="before the graph is captured"):
        key(moving, "cutout")
