"""The rule of the choice, on made-up measurements."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.advise.choose import TIE, Option, alike, choose, gain

CONDITIONS, IMAGES = 3, 60
EVEN = torch.full((CONDITIONS,), 1 / CONDITIONS)


def scores(mean, seed, spread=0.3):
    generator = torch.Generator().manual_seed(seed)
    noise = spread * torch.randn(CONDITIONS, IMAGES, generator=generator)
    return (mean + noise).clamp(0, 1)


measured = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 0.5), st.floats(1, 20), st.booleans()),
    min_size=1,
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(measured, st.floats(0, 1), st.lists(st.floats(0.01, 1), min_size=3, max_size=3))
def test_what_is_chosen_gains_surely_and_nothing_cheaper_is_as_good(found, level, weights):
    weights = torch.tensor(weights) / sum(weights)
    frozen = scores(level, 99)
    options = [
        Option(number, scores(mean, number, spread), cost, "no" if refused else "")
        for number, (mean, spread, cost, refused) in enumerate(found)
    ]
    choice = choose(options, frozen, weights)
    good = [o for o in options if choice.gains[o.name].low > 0 and not o.refused]
    assert choice.gains[choice.best].value == max(g.value for g in choice.gains.values())
    if choice.chosen is None:
        assert not good
        return
    chosen = options[choice.chosen]
    assert choice.gains[chosen.name].low > 0 and not chosen.refused
    most = max(choice.gains[o.name].value for o in good)
    assert choice.gains[chosen.name].value >= most - TIE - 1e-6
    for other in good:
        if other.cost < chosen.cost:
            best = max(good, key=lambda o: choice.gains[o.name].value)
            behind = gain(best.scores, other.scores, weights)
            assert behind.value > TIE or behind.low > 0


def test_equal_methods_go_by_cost_and_order_does_not_matter():
    frozen, better = scores(0.2, 0), scores(0.8, 1)
    options = [Option("dear", better, 6.0), Option("cheap", better, 1.0)]
    assert choose(options, frozen, EVEN).chosen == "cheap"
    assert choose(options[::-1], frozen, EVEN).chosen == "cheap"


def test_a_sure_loss_is_never_chosen_and_no_method_is_no_choice():
    frozen = scores(0.9, 0)
    choice = choose([Option("worse", scores(0.5, 1), 1.0)], frozen, EVEN)
    assert choice.chosen is None and choice.best == "worse" and choice.gains["worse"].high < 0
    assert choose([], frozen, EVEN).best is None


def test_a_refused_method_is_not_chosen_but_named_best():
    frozen, better = scores(0.2, 0), scores(0.8, 1)
    options = [Option("a", better, 1.0, "the guard says no"), Option("b", better - 0.2, 1.0)]
    choice = choose(options, frozen, EVEN)
    assert (choice.chosen, choice.best) == ("b", "a")


def test_conditions_count_by_their_weights():
    frozen = torch.full((2, IMAGES), 0.5)
    helps = torch.stack([torch.full((IMAGES,), 0.9), torch.full((IMAGES,), 0.1)])
    assert choose([Option("m", helps, 1.0)], frozen, torch.tensor([0.9, 0.1])).chosen == "m"
    assert choose([Option("m", helps, 1.0)], frozen, torch.tensor([0.1, 0.9])).chosen is None


def test_the_interval_is_that_of_paired_means():
    first, second = scores(0.7, 3), scores(0.6, 4)
    found = gain(first, second, EVEN)
    each = (first - second).mean(0)
    assert found.value == pytest.approx(float(each.mean()), abs=1e-6)
    width = 1.96 * float(each.std()) / IMAGES**0.5
    assert found.high - found.value == pytest.approx(width, abs=1e-6)
    one = gain(first[:, :1], second[:, :1], EVEN)
    assert one.low == -torch.inf and one.high == torch.inf


def test_conditions_alike_weigh_most_and_the_nearest_counts_where_none_is():
    accuracies = torch.tensor([0.95, 0.7, 0.4])
    near = alike(accuracies, 0.7)
    assert near.argmax() == 1 and float(near.sum()) == pytest.approx(1)
    assert alike(accuracies, 0.0).argmax() == 2
