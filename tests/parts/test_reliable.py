"""Selections of reliable images against plain loops over images."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acclimate.errors import InputError
from acclimate.objectives import Outcome
from acclimate.parts.reliable import Reliable, ReliableAndNew, ReliableByShape

CPU = torch.device("cpu")
BATCHES = st.lists(
    st.tuples(st.integers(1, 6), st.integers(0, 2**31), st.sampled_from([0.1, 2.0, 9.0])),
    min_size=1,
    max_size=4,
)


def logits_of(batch, classes):
    count, seed, scale = batch
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, classes, dtype=torch.float64, generator=generator)


def plain_entropy(p):
    return -sum(x * math.log(x) for x in p if x > 0)


def plain_cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


@given(BATCHES, st.integers(2, 12), st.booleans(), st.sampled_from([0.05, 0.4, 0.9]))
def test_eata_s_weights_and_mean_are_a_plain_loop_s(batches, classes, of_kept, similarity):
    part = ReliableAndNew(0.4, similarity, of_kept).build(classes, CPU)
    mean, margin = None, 0.4 * math.log(classes)
    for batch in batches:
        logits = logits_of(batch, classes)
        found = part(Outcome(logits.sum(1), logits))
        expected, entering = [], []
        for p in logits.softmax(1).tolist():
            entropy = plain_entropy(p)
            new = mean is None or abs(plain_cosine(mean, p)) < similarity
            kept = entropy < margin and new
            expected.append(math.exp(margin - entropy) if kept else 0.0)
            if kept or not of_kept:
                entering.append(p)
        if entering:
            now = [sum(column) / len(entering) for column in zip(*entering)]
            mean = now if mean is None else [0.9 * m + 0.1 * n for m, n in zip(mean, now)]
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
        if mean is not None:
            expected_mean = torch.tensor(mean, dtype=torch.float64)
            torch.testing.assert_close(part.state()["mean"], expected_mean)
        else:
            assert part.state()["mean"].isnan().all()


@given(BATCHES, st.integers(2, 12))
def test_sar_s_and_deyo_s_weights_are_a_plain_loop_s(batches, classes):
    log = math.log(classes)
    sar = Reliable(0.4).build(classes, CPU)
    deyo = ReliableByShape(0.5, 0.2, 0.4).build(classes, CPU)
    for batch in batches:
        logits = logits_of(batch, classes)
        drops = torch.rand(len(logits), dtype=torch.float64) * 2 - 1
        outcome = Outcome(logits.sum(1), logits, drops=drops)
        entropy = [plain_entropy(p) for p in logits.softmax(1).tolist()]
        assert sar(outcome).tolist() == [float(h < 0.4 * log) for h in entropy]
        expected = [
            math.exp(0.4 * log - h) + math.exp(drop) if h < 0.5 * log and drop > 0.2 else 0.0
            for h, drop in zip(entropy, drops.tolist())
        ]
        torch.testing.assert_close(deyo(outcome), torch.tensor(expected, dtype=torch.float64))
        assert sar.state() == deyo.state() == {}


@pytest.mark.parametrize(
    ("classes", "similarity"), [(2, 0.4), (10, 0.4), (11, 0.1), (100, 0.1), (200, 0.05)]
)
def test_eata_s_similarity_goes_by_the_published_ones(classes, similarity):
    assert ReliableAndNew().build(classes, CPU).similarity == similarity


def test_half_precision_is_weighed_in_full():
    """A mean of bf16 probabilities would not move by a tenth of a small difference."""
    logits = torch.randn(8, 10).bfloat16() * 5
    part = ReliableAndNew(9.0, 2.0).build(10, CPU)
    weights = part(Outcome(logits.sum(1), logits))
    assert weights.dtype == torch.float32
    torch.testing.assert_close(part.mean, logits.double().softmax(1).mean(0))


def test_one_class_is_always_certain():
    logits = torch.zeros(3, 1)
    assert Reliable().build(1, CPU)(Outcome(logits.sum(1), logits)).tolist() == [0, 0, 0]


def test_an_objective_without_predictions_is_refused():
    for part in (Reliable(), ReliableAndNew(), ReliableByShape()):
        with pytest.raises(InputError, match="choose the objective"):
            part.build(4, CPU)(Outcome(torch.zeros(3)))
