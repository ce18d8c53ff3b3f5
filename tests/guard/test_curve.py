import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.guard.curve import CORRECTION, Curve, corrected, fitted


def loss(x, chance, count, offset, weights, ridge):
    """Penalised negative log-likelihood of standardised numbers, row by row."""
    columns = list(zip(*x))
    mean = [sum(c) / len(c) for c in columns]
    spread = [math.sqrt(sum((v - m) ** 2 for v in c) / len(c)) for c, m in zip(columns, mean)]
    total = 0.5 * ridge * sum(w * w for w in weights)
    for row, t, n in zip(x, chance, count):
        z = offset + sum(w * (v - m) / s for w, v, m, s in zip(weights, row, mean, spread))
        total += n * (math.log1p(math.exp(-abs(z))) + max(z, 0) - t * z)
    return total


def data(seed=0, rows=60):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 2, generator=generator)
    chance = torch.rand(rows, generator=generator)
    return x, chance, torch.rand(rows, generator=generator) + 0.5


def test_no_neighbour_fits_better():
    x, chance, count = data()
    curve = fitted(x, chance, count, ridge=2.0)
    rows = (x.double().tolist(), chance.double().tolist(), count.double().tolist())
    best = loss(*rows, float(curve.offset), curve.weights.tolist(), 2.0)
    for step in (-0.02, 0.02):
        assert loss(*rows, float(curve.offset) + step, curve.weights.tolist(), 2.0) > best
        for number in range(2):
            moved = curve.weights.tolist()
            moved[number] += step
            assert loss(*rows, float(curve.offset), moved, 2.0) > best


def test_a_constant_chance_is_found():
    x, _, count = data()
    curve = fitted(x, torch.full((60,), 0.3), count)
    torch.testing.assert_close(curve(x), torch.full((60,), 0.3), atol=1e-3, rtol=0)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(0, 5), st.floats(-1e6, 1e6))
def test_chances_are_finite_and_stay_within_what_was_measured(seed, rows, far):
    x, chance, count = (each[:rows] for each in data(seed))
    curve = fitted(x, chance.round(), count)
    found = curve(torch.tensor([[far, -far]]))
    assert found.isfinite().all() and 0 <= float(found) <= 1
    edge = torch.tensor([[far, -far]]).clamp(curve.low, curve.high)
    torch.testing.assert_close(found, curve(edge))


def test_no_rows_give_one_half():
    curve = fitted(torch.zeros(0, 3), torch.zeros(0), torch.zeros(0))
    assert curve(torch.randn(4, 3)).tolist() == [0.5] * 4


def test_the_tensors_give_the_curve_again():
    x, chance, count = data()
    curve = fitted(x, chance, count)
    again = Curve.of(curve.tensors("twin.guard.better."), "twin.guard.better.")
    torch.testing.assert_close(again(x), curve(x))


def test_a_correction_solves_its_own_equation_and_leaves_the_curve():
    draw = torch.Generator().manual_seed(3)
    x, alike = torch.randn(300, 2, generator=draw), torch.rand(300, 3, generator=draw)
    curve = fitted(x, (x[:, 0] > 0).float(), torch.ones(300))
    chance, count = torch.rand(300, generator=draw), torch.rand(300, generator=draw)
    found = corrected(curve, x, alike, chance, count)
    assert found.curve is curve
    left = count * (found(x, alike) - chance)
    gradient = (left[:, None] * alike).sum(0) + CORRECTION * found.by_set
    torch.testing.assert_close(gradient, torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(found(x, torch.zeros(300, 3)), curve(x))
    assert torch.equal(
        corrected(curve, x[:0], alike[:0], chance[:0], count[:0]).by_set, torch.zeros(3)
    )


@settings(deadline=None, max_examples=25)
@given(st.floats(-8, 8), st.floats(0.01, 0.99), st.sampled_from([64, 256, 1000]))
def test_a_curve_that_is_certain_and_wrong_is_corrected(odds, chance, rows):
    zero = torch.zeros(1)
    curve = Curve(zero, torch.tensor(odds), zero, zero + 1, zero, zero)
    alike, chances = torch.ones(rows, 1), torch.full((rows,), chance)
    found = corrected(curve, torch.zeros(rows, 1), alike, chances, torch.ones(rows))
    added = float(found.by_set)
    gradient = rows * (float(torch.tensor(odds + added).sigmoid()) - chance) + CORRECTION * added
    assert abs(gradient) < 0.01
