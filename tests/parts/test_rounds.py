"""The average of turns against a plain loop that keeps each turn's weights in a list."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.errors import InputError
from acclimate.parts.rounds import AverageOfTurns, give_moments
from acclimate.parts.update import Adam, allocate_state

YES, NO = torch.tensor(True), torch.tensor(False)


def weights():
    generator = torch.Generator().manual_seed(3)
    return {n: torch.randn(4, generator=generator, dtype=torch.float64) for n in ("a", "b")}


def loss_of(tensors, turn):
    """Another valley for each turn."""
    return sum(((tensor - turn) ** 2 * (1 + turn)).sum() for tensor in tensors.values())


def plain(rounds, templates, steps, parallel, released):
    """What the part must give, with torch's own Adam, made anew where it forgets."""
    theta = weights()
    optimizer = torch.optim.Adam(theta.values(), 0.1)
    for number in range(rounds):
        start = {name: tensor.detach().clone() for name, tensor in theta.items()}
        ends = []
        for turn in range(templates):
            if parallel:
                for name, tensor in theta.items():
                    tensor.data.copy_(start[name])
                if number == 0 or not released:
                    optimizer = torch.optim.Adam(theta.values(), 0.1)
            for _ in range(steps):
                optimizer.zero_grad()
                for tensor in theta.values():
                    tensor.requires_grad_()
                loss_of(theta, turn).backward()
                optimizer.step()
            ends.append({name: tensor.detach().clone() for name, tensor in theta.items()})
        for name, tensor in theta.items():
            tensor.data.copy_(torch.stack([end[name] for end in ends]).mean(0))
    return theta


@settings(max_examples=30, deadline=None)
@given(
    rounds=st.integers(1, 3),
    templates=st.integers(1, 4),
    steps=st.integers(1, 3),
    parallel=st.booleans(),
    released=st.booleans(),
)
def test_it_is_the_plain_loop(rounds, templates, steps, parallel, released):
    moving = {name: tensor.requires_grad_() for name, tensor in weights().items()}
    optimizer = Adam(0.1).build(moving.values())
    allocate_state(optimizer, list(moving.values()))
    part = AverageOfTurns(templates, steps, parallel, released).build(moving)
    give_moments([part], optimizer)
    for number in range(rounds * templates * steps):
        optimizer.zero_grad()
        loss_of(moving, number // steps % templates).backward()
        optimizer.step()
        part(YES)
    expected = plain(rounds, templates, steps, parallel, released)
    for name, tensor in moving.items():
        torch.testing.assert_close(tensor.detach(), expected[name].detach())


def test_steps_that_were_not_taken_do_not_count():
    moving = weights()
    part = AverageOfTurns(2, 1).build(moving)
    before = {name: tensor.clone() for name, tensor in moving.items()}
    for taken in (YES, NO, NO):
        part(taken)
        for tensor in moving.values():
            tensor += 1
    part(YES)  # the second turn's end, three further on
    for name, tensor in moving.items():
        torch.testing.assert_close(tensor, before[name] + 1.5)


def test_what_it_counts_is_its_state():
    parallel = AverageOfTurns(parallel=True).build(weights()).state()
    assert set(parallel) == {"taken", "sum.a", "sum.b", "start.a", "start.b"}
    assert set(AverageOfTurns().build(weights()).state()) == {"taken", "sum.a", "sum.b"}


@pytest.mark.parametrize("settings", [{"templates": 0}, {"steps": 0}])
def test_impossible_settings(settings):
    with pytest.raises(InputError, match="must be at least 1"):
        AverageOfTurns(**settings).check()
