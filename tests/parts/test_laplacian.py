import math

import pytest
import torch
from golden_values import assert_golden, golden
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.errors import InputError
from acclimate.parts.answer import Prediction
from acclimate.parts.laplacian import Laplacian, affinities, assigned

KINDS = {
    "knn": Laplacian("knn"),
    "rbf": Laplacian("rbf"),
    "linear": Laplacian("linear"),
    "knn_symmetric": Laplacian("knn", symmetric=True),
}


def energy(unary, kernel, new, old):
    return (unary * new - (kernel @ old) * new + new * new.log()).sum()


@pytest.mark.parametrize("name", KINDS)
def test_it_is_the_release(name):
    logits, kernel = golden("lame_logits"), affinities(golden("lame_features"), KINDS[name])
    unary = -logits.log_softmax(1)
    assert_golden(unary, "lame_unary", rtol=1e-6)
    if name != "knn_symmetric":
        assert_golden(kernel, f"lame_{name}_kernel")
    stops = int(golden(f"lame_{name}_iterations"))
    found = assigned(logits, kernel, iterations=stops).softmax(1)
    assert_golden(found, f"lame_{name}_output", rtol=0, atol=1e-6)
    assignments = [assigned(logits, kernel, iterations=n).softmax(1) for n in range(stops + 1)]
    energies = [energy(unary, kernel, *pair) for pair in zip(assignments[1:], assignments)]
    assert_golden(torch.stack(energies), f"lame_{name}_energies", rtol=1e-6)
    # The release stops at a tolerance; ours goes on, and is at the same point.
    part, prediction = KINDS[name], Prediction(logits, golden("lame_features"))
    assert_golden(part(prediction).softmax(1), f"lame_{name}_output", rtol=0, atol=2e-6)


def slow(logits, features, kind, neighbours, symmetric, iterations):
    """Pair by pair, with distances of the normalised features."""
    unit = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in features]
    count = len(unit)
    distances = [[math.dist(a, b) for b in unit] for a in unit]
    kernel = [[0.0] * count for _ in range(count)]
    nth = [sorted(row)[min(neighbours, count) - 1] for row in distances]
    width = sum(nth) / count
    for i in range(count):
        others = sorted((j for j in range(count) if j != i), key=lambda j: distances[i][j])
        for j in range(count):
            if kind == "linear":
                kernel[i][j] = sum(a * b for a, b in zip(unit[i], unit[j]))
            elif kind == "rbf":
                kernel[i][j] = math.exp(-(distances[i][j] ** 2) / (2 * width**2))
            elif j in others[:neighbours]:
                kernel[i][j] = 1.0
    if symmetric:
        kernel = [[(kernel[i][j] + kernel[j][i]) / 2 for j in range(count)] for i in range(count)]
    logs = torch.tensor(logits, dtype=torch.float64).log_softmax(1)
    assignments = logs.softmax(1)
    for _ in range(iterations):
        rows = []
        for i in range(count):
            pull = sum(kernel[i][j] * assignments[j] for j in range(count))
            rows.append((logs[i] + pull).softmax(0))
        assignments = torch.stack(rows)
    return assignments


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("count", [2, 3, 13])
def test_it_is_the_plain_loop_on_other_inputs(name, count):
    generator = torch.Generator().manual_seed(count)
    logits = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    features = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    kind = KINDS[name]
    part = Laplacian(kind.affinity, 3, kind.symmetric, 12)
    expected = slow(logits.tolist(), features.tolist(), kind.affinity, 3, kind.symmetric, 12)
    found = part(Prediction(logits, features)).softmax(1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", KINDS)
def test_one_image_keeps_its_answer(name):
    logits = torch.tensor([[1.0, 2.0, -3.0]])
    assert torch.equal(KINDS[name](Prediction(logits, torch.ones(1, 5))), logits)


@pytest.mark.parametrize("features", [torch.ones(6, 5), torch.zeros(6, 5)], ids=["same", "zero"])
@pytest.mark.parametrize("name", KINDS)
def test_identical_images_agree_and_are_finite(name, features):
    """All distances are 0, and with them the width of the release's kernel: 0/0."""
    logits = torch.tensor([[1.0, 2.0, -3.0]]).expand(6, 3)
    found = KINDS[name](Prediction(logits, features))
    assert found.isfinite().all()
    assert torch.equal(found.argmax(1), logits.argmax(1))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.floats(-30, 30), min_size=3, max_size=3), min_size=1, max_size=7),
    st.sampled_from(list(KINDS)),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_answers_are_finite_and_permute_with_the_images(rows, name, dtype):
    logits = torch.tensor(rows)
    generator = torch.Generator().manual_seed(len(rows))
    features = torch.randn(len(rows), 4, 2, 2, generator=generator).to(dtype)  # maps
    assert KINDS[name](Prediction(300 * logits, features)).isfinite().all()
    found = KINDS[name](Prediction(logits, features))
    assert found.dtype == torch.float32 and found.isfinite().all()
    other = KINDS[name](Prediction(logits.flip(0), features.flip(0)))
    torch.testing.assert_close(other.flip(0).softmax(1), found.softmax(1), rtol=1e-3, atol=1e-3)


def test_similar_images_agree():
    """One image of a cluster that was taken for another class goes with its neighbours."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(2).repeat_interleave(8, 0)
    features = centres + 0.05 * torch.randn(16, 2, generator=generator)
    logits = 3 * centres
    logits[0] = torch.tensor([0.0, 0.5])
    assert logits.argmax(1)[0] == 1
    found = KINDS["knn"](Prediction(logits, features)).argmax(1)
    assert torch.equal(found, centres.argmax(1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"affinity": "gauss"}, "gauss"),
        ({"neighbours": 0}, "neighbours must be 1 to 1000"),
        ({"iterations": 10**6}, "iterations must be 1 to 1000"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Laplacian(**settings).check()
