"""PeTTA's divergence, and what goes by it: against the release and a plain loop."""

import math

import pytest
import torch
from golden_values import assert_golden, golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from acclimate.errors import InputError
from acclimate.parts.answer import Prediction
from acclimate.parts.divergence import SensingTeacher, divergence
from acclimate.parts.penalty import DivergencePenalty

TRUE, FALSE = torch.tensor(True), torch.tensor(False)
SOURCE = {
    "mean": golden("petta_source_mean"),
    "variance": golden("petta_source_variance"),
    "images": torch.full((5,), 9.0),
}
RATE, WEIGHT, _, RENEWAL = (float(x) for x in golden("petta_settings"))


def seen(number):
    """The predictions of a batch of the file."""
    labels = golden("petta_pseudo_labels")[number]
    return Prediction(5 * one_hot(labels, 5).double(), golden("petta_features")[number])


@pytest.mark.parametrize("summed", [False, True])
def test_petta_s_divergence_means_and_rates_are_the_release_s(summed):
    """The paper's divergence too, which no release computes."""
    moving = {"model.encoder.weight": torch.zeros(3).double()}
    part = SensingTeacher(1 - RATE, RENEWAL, summed).build(moving, prototypes=SOURCE)
    average = part.state()["model.encoder.weight"]
    penalty = DivergencePenalty(WEIGHT).build({"weight": torch.ones(1).double()})
    penalty.divergence = part.divergence
    form = "" if summed else "_as_released"
    for t in range(4):
        part.sees(seen(t))
        torch.testing.assert_close(part.divergence(), golden(f"petta_divergence{form}")[t])
        if not summed:  # R is −1 at the source
            torch.testing.assert_close(-penalty(0), golden("petta_lambda_as_released")[t])
        average.zero_()
        moving["model.encoder.weight"].fill_(1)
        part(TRUE)
        if not summed:
            expected = golden("petta_alpha_as_released")[t].expand(3)
            torch.testing.assert_close(average, expected, rtol=1e-9, atol=0)
        assert_golden(part.means, f"petta_running_mean_{t + 1}")


@pytest.mark.parametrize("form", ["cosine", "l2"])
def test_petta_s_regulariser_is_the_release_s(form):
    names = ("weight", "bias")
    moving = {name: golden(f"petta_norm_{name}_source").requires_grad_() for name in names}
    penalty = DivergencePenalty(WEIGHT, squared=form == "l2").build(moving)
    with torch.no_grad():
        for name, tensor in moving.items():
            tensor.copy_(golden(f"petta_norm_{name}"))
    assert_golden(penalty.distance(), f"petta_{form}_regulariser")
    penalty.distance().backward()
    for name, tensor in moving.items():
        assert_golden(tensor.grad, f"petta_{form}_regulariser_grad_{name}")
        tensor.grad = None
    penalty.divergence = lambda: torch.tensor(0.25).double()
    total = penalty(torch.tensor(2.0).double())
    torch.testing.assert_close(total, 2 + WEIGHT / 4 * golden(f"petta_{form}_regulariser"))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(1, 6), st.booleans())
def test_the_divergence_is_a_plain_loop_s(seed, classes, dim, summed):
    generator = torch.Generator().manual_seed(seed)
    source = {
        "mean": torch.randn(classes, dim, generator=generator).double(),
        "variance": torch.rand(classes, dim, generator=generator).double() + 0.1,
        "images": torch.randint(4, (classes,), generator=generator).double(),
    }
    means = torch.randn(classes, dim, generator=generator).double()
    present = torch.rand(classes, generator=generator) < 0.7
    found = divergence(means, source, present, summed=summed)
    known = [c for c in range(classes) if present[c] and source["images"][c] >= 2]
    if not known:
        assert found.isnan()
        return
    terms = []
    for c in known:
        distances = [
            (float(means[c, d]) - float(source["mean"][c, d])) ** 2
            / float(source["variance"][c, d])
            for d in range(dim)
        ]
        terms.append(1 - math.exp(-sum(distances)) if summed else sum(distances) / dim)
    mean = sum(terms) / len(terms)
    assert found.item() == pytest.approx(mean if summed else 1 - math.exp(-mean), rel=1e-4)
    assert 0 <= found <= 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_means_do_not_depend_on_how_images_come(seed, sizes):
    """All at once or a few at a time: what a step takes up is the mean of each class."""
    generator = torch.Generator().manual_seed(seed)
    count = sum(sizes)
    features = torch.randn(count, 6, generator=generator).double()
    logits = torch.randn(count, 5, generator=generator).double()
    whole, parts = (made() for _ in range(2))
    whole.sees(Prediction(logits, features))
    for pair in zip(logits.split(sizes), features.split(sizes)):
        parts.sees(Prediction(*pair))
    torch.testing.assert_close(whole.divergence(), parts.divergence())
    for part in (whole, parts):
        part(TRUE)
    torch.testing.assert_close(whole.means, parts.means)
    labels = logits.argmax(1)
    for label in range(5):
        expected = SOURCE["mean"][label]
        if (labels == label).any():
            expected = 0.95 * expected + 0.05 * features[labels == label].mean(0)
        torch.testing.assert_close(whole.means[label], expected)


def made(**changes):
    moving = {"model.encoder.weight": torch.ones(3).double()}
    return SensingTeacher(**changes).build(moving, prototypes=SOURCE)


def test_a_step_that_is_not_taken_leaves_features_for_the_next():
    part, other = made(), made()
    part.sees(seen(0))
    before = {name: tensor.clone() for name, tensor in part.state().items()}
    part(FALSE)
    assert all(torch.equal(tensor, before[n]) for n, tensor in part.state().items())
    part.sees(seen(1))
    other.sees(Prediction(*map(torch.cat, zip(seen(0), seen(1)))))
    for each in (part, other):
        each(TRUE)
    torch.testing.assert_close(part.means, other.means)


def test_a_second_step_on_the_same_images_goes_by_the_same_divergence():
    part = made()
    part.sees(seen(0))
    part(TRUE)
    part.sees(seen(1))
    far = part.divergence()
    assert far > 0
    part(TRUE)
    assert part.divergence() == far  # nothing was seen since
    part.sees(seen(2))
    assert part.divergence() != far


def test_a_class_that_the_source_does_not_know_does_not_count():
    source = SOURCE | {"images": torch.tensor([9.0, 1.0, 0.0, 9.0, 9.0])}
    means = SOURCE["mean"] + torch.tensor([[0.0], [5.0], [7.0], [0.0], [0.0]])
    every = torch.ones(5, dtype=torch.bool)
    assert divergence(means, source, every, summed=False) == 0
    part = SensingTeacher().build({"w": torch.ones(1)}, prototypes=source)
    part.sees(Prediction(torch.eye(5)[[1, 2]], torch.ones(2, 6)))
    assert part.divergence() == 0


def test_a_sum_over_features_ends_near_1_where_there_are_many():
    """A tenth of a standard deviation in each of 640 features: what the page says of it."""
    source = {
        "mean": torch.zeros(2, 640),
        "variance": torch.ones(2, 640),
        "images": torch.ones(2) * 2,
    }
    means = torch.full((2, 640), 0.1)
    every = torch.ones(2, dtype=torch.bool)
    assert divergence(means, source, every, summed=True) > 0.998
    assert divergence(means, source, every, summed=False) < 0.01


def test_a_parameter_of_zeros_has_a_finite_gradient():
    moving = {"weight": torch.ones(4).requires_grad_(), "bias": torch.zeros(4).requires_grad_()}
    penalty = DivergencePenalty().build(moving)
    penalty.distance().backward()
    assert all(tensor.grad.isfinite().all() for tensor in moving.values())
    assert penalty.distance() == -0.5  # a zero vector has no direction


@pytest.mark.parametrize(
    ("part", "match"),
    [
        (SensingTeacher(momentum=1.5), "momentum must lie between 0 and 1"),
        (SensingTeacher(renewal=-0.1), "renewal must lie between 0 and 1"),
        (DivergencePenalty(-1.0), "weight must be a finite number"),
    ],
)
def test_settings_out_of_range_are_refused(part, match):
    with pytest.raises(InputError, match=match):
        part.check()
