"""The search: it is the package's strategy, and all that it knows is in its tensors."""

import sys

import numpy as np
import pytest
import torch
from cmaes import CMA
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.errors import InputError
from acclimate.parts.search import CovarianceAdaptation, Search
from acclimate.randomness import key, normal

TARGET = torch.arange(6.0).view(2, 3)


def worth(candidates):
    """Least at the target; not the same in all directions."""
    return ((candidates - TARGET).square() * (1 + TARGET)).sum((1, 2))


def generations(search, count):
    found = []
    for _ in range(count):
        strategy, candidates = search.ask()
        search.tell(strategy, candidates, worth(candidates))
        found.append(candidates)
    return found


def test_it_finds_the_least():
    search = Search(torch.zeros(2, 3), 12, 1.0, 0)
    generations(search, 150)
    torch.testing.assert_close(search.prompts, TARGET, atol=1e-4, rtol=0)


def test_it_is_the_package_s_strategy_told_the_same():
    """One strategy that lives on, against one made anew from tensors in each step."""
    search = Search(torch.zeros(2, 3), 8, 0.5, seed=3)
    strategy, best = CMA(np.zeros(6), 0.5, population_size=8), np.zeros(6)
    for generation, candidates in enumerate(generations(search, 12)):
        directions, lengths = strategy._eigen_decomposition()
        drawn = normal(key(3, "search", generation), torch.arange(7), 6).double().numpy()
        points = [strategy.mean + strategy._sigma * directions @ (lengths * z) for z in drawn]
        points = np.stack([*points, best]).astype(np.float32)
        np.testing.assert_allclose(candidates.flatten(1), points, rtol=1e-5, atol=1e-6)
        values = worth(candidates).tolist()
        best = points[int(np.argmin(values))]
        strategy.tell(list(zip(candidates.flatten(1).double().numpy(), values)))
    state = search.state[search.prompts]
    np.testing.assert_allclose(state["mean"], strategy.mean, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(state["covariance"], strategy._C, rtol=1e-6, atol=1e-8)
    assert state["step_size"].item() == pytest.approx(strategy._sigma)
    assert state["generation"].item() == strategy.generation == 12


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 6), st.integers(1, 4), st.integers(4, 9), st.integers(0, 99))
def test_its_tensors_are_all_that_it_knows(before, after, population, seed):
    """Another search with the same tensors has the same future, to the bit."""
    one, other = (Search(torch.zeros(2, 3), population, 1.0, seed) for _ in range(2))
    generations(one, before)
    generations(other, 2)  # it has been elsewhere
    with torch.no_grad():
        other.prompts.copy_(one.prompts)
        for name, tensor in other.state[other.prompts].items():
            tensor.copy_(one.state[one.prompts][name])
    futures = zip(generations(one, after), generations(other, after))
    assert all(torch.equal(mine, theirs) for mine, theirs in futures)


def test_the_best_is_kept_and_never_lost():
    search = Search(torch.full((2, 3), 9.0), 6, 1.0, 0)
    last = worth(search.prompts[None]).item()
    for _ in range(30):
        generations(search, 1)
        now = worth(search.prompts[None]).item()
        assert now <= last
        last = now


def test_a_candidate_that_is_not_finite_is_the_worst():
    search = Search(torch.zeros(2, 3), 6, 1.0, 0)
    strategy, candidates = search.ask()
    fitness = torch.tensor([torch.nan, 3.0, -torch.inf, 2.0, torch.inf, 4.0])
    assert search.tell(strategy, candidates, fitness) == 3
    assert all(t.isfinite().all() for t in search.state[search.prompts].values())


def test_seeds_differ():
    drawn = [Search(torch.zeros(2, 3), 6, 1.0, seed).ask()[1] for seed in (0, 1)]
    assert not torch.equal(*drawn)


def test_without_the_package_there_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(InputError, match=r"package cmaes, which is missing.*acclimate\[foa\]"):
        CovarianceAdaptation().build(torch.zeros(2, 3), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": 0}, "prompts must be 1 to 100, not 0"),
        ({"population": 3}, "population must be 4 to 10000, not 3"),
        ({"spread": 0.0}, "spread must be above 0"),
        ({"spread": -1.0}, "spread must be a finite number, 0 or more"),
    ],
)
def test_settings_that_cannot_be_meant(changes, message):
    with pytest.raises(InputError, match=message):
        CovarianceAdaptation(**changes).check()
