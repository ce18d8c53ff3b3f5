"""Stochastic restoration: random numbers of its own, and what they restore."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.errors import InputError
from acclimate.parts.aftermath import Restore

TRUE, FALSE = torch.tensor(True), torch.tensor(False)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([0.0, 0.01, 0.3, 1.0]), st.integers(0, 99))
def test_weights_return_with_the_given_probability(probability, seed):
    weight = torch.zeros(200, 50)
    part = Restore(probability, seed).build({"weight": weight})
    weight.fill_(1)
    part(FALSE)
    assert (weight == 1).all() and part.state()["steps"] == 0
    part(TRUE)
    returned = (weight == 0).float().mean().item()
    assert abs(returned - probability) <= 5 * (probability * (1 - probability) / 10_000) ** 0.5
    assert ((weight == 0) | (weight == 1)).all() and part.state()["steps"] == 1


def test_each_step_seed_and_parameter_has_choices_of_its_own():
    def chosen(seed, steps):
        weights = {name: torch.zeros(1000) for name in ("one", "other")}
        part = Restore(0.5, seed).build(weights)
        found = []
        for _ in range(steps):
            for weight in weights.values():
                weight.fill_(1)
            part(TRUE)
            found += [tuple(weight.tolist()) for weight in weights.values()]
        return found

    assert len({*chosen(0, 3), *chosen(1, 3)}) == 12
    assert chosen(0, 3) == chosen(0, 3)


def test_a_state_that_is_brought_back_restores_the_same():
    weight = torch.zeros(1000)
    part = Restore(0.5).build({"weight": weight})
    part(TRUE)
    (steps,) = (tensor.clone() for tensor in part.state().values())
    found = []
    for _ in range(2):
        part.state()["steps"].copy_(steps)
        weight.fill_(1)
        part(TRUE)
        found.append(weight.clone())
    assert torch.equal(*found)


def test_a_probability_outside_0_1_is_refused():
    with pytest.raises(InputError, match="probability must lie between 0 and 1"):
        Restore(1.5).check()
