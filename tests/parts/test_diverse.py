import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.errors import InputError
from acclimate.objectives import Outcome
from acclimate.parts.diverse import CertainAndDiverse, rescaled


def outcome(logits):
    return Outcome(torch.zeros(len(logits)), logits)


def slow(rows, mean, temperature):
    """ROID's weights, image by image, and the next running mean."""
    predictions, certainty, diversity = [], [], []
    for row in rows:
        exps = [math.exp(z - max(row)) for z in row]
        p = [e / sum(exps) for e in exps]
        predictions.append(p)
        certainty.append(sum(x * math.log(x) for x in p if x))
        dot = sum(a * b for a, b in zip(p, mean))
        diversity.append(1 - dot / math.sqrt(sum(a * a for a in p) * sum(b * b for b in mean)))

    def stretched(values):
        span = max(values) - min(values)
        return [(v - min(values)) / span if span else 0.0 for v in values]

    certainty, diversity = stretched(certainty), stretched(diversity)
    middle = sum(diversity) / len(diversity)
    weights = [
        math.exp(d * c / temperature) if d >= middle else 0.0 for d, c in zip(diversity, certainty)
    ]
    after = [0.9 * m + 0.1 * sum(c) / len(rows) for m, c in zip(mean, zip(*predictions))]
    return weights, after


def test_it_is_the_plain_loop_on_other_inputs():
    generator = torch.Generator().manual_seed(3)
    part = CertainAndDiverse(temperature=0.5).build(7, torch.device("cpu"))
    mean = [1 / 7] * 7
    for _ in range(4):
        z = 3 * torch.randn(30, 7, generator=generator, dtype=torch.float64)
        weights, mean = slow(z.tolist(), mean, 0.5)
        share = sum(w > 0 for w in weights) / len(weights)
        torch.testing.assert_close(part(outcome(z)).tolist(), [w * share for w in weights])
        torch.testing.assert_close(part.mean.tolist(), mean)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3), min_size=1, max_size=8),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_weights_are_finite_and_some_image_is_left(rows, dtype):
    part = CertainAndDiverse(temperature=0.02).build(3, torch.device("cpu"))
    for _ in range(3):
        weights = part(outcome(torch.tensor(rows, dtype=dtype)))
        assert weights.isfinite().all() and (weights >= 0).all() and weights.any()
        assert part.mean.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("count", [1, 2, 5, 48])
def test_one_image_and_identical_images_all_weigh_one(count):
    """The release divides 0 by 0 there, and its loss is NaN."""
    part = CertainAndDiverse().build(4, torch.device("cpu"))
    z = torch.tensor([[0.3, -1.0, 2.0, 0.1]]).expand(count, 4)
    assert torch.equal(part(outcome(z)), torch.ones(count))


def test_values_are_rescaled():
    assert rescaled(torch.tensor([2.0, 3.0, 6.0])).tolist() == [0, 0.25, 1]
    assert rescaled(torch.tensor([5.0])).tolist() == [0]


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0.0}, {"temperature": math.inf}, {"temperature": math.nan}, {"momentum": 1.5}],
)
def test_settings_that_cannot_be_meant_are_refused(settings):
    with pytest.raises(InputError, match="must"):
        CertainAndDiverse(**settings).check()


def test_an_objective_without_logits_is_refused():
    part = CertainAndDiverse().build(4, torch.device("cpu"))
    with pytest.raises(InputError, match="needs the images' logits"):
        part(Outcome(torch.zeros(3)))
