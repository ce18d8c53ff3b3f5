import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from acclimate.data import LabelledImages, Shift, corrupt
from acclimate.errors import InputError
from acclimate.evaluate.analyses.gradients import agreement, correlation
from acclimate.randomness import key


@pytest.fixture
def data(images):
    return LabelledImages(images[:3], torch.tensor([2, 0, 1]), ("ant", "bee", "cat", "dog"), "tiny")


def test_it_is_the_change_of_the_main_loss_along_the_other_gradient(bundle_of, data):
    """⟨∇m, ∇s⟩ = d/dt m(θ + t ∇s), by a central difference in float64."""
    bundle = bundle_of("ttt")
    found = agreement(bundle, data, Shift("contrast", 3), seed=5)
    model, objective = bundle.classifier.double(), bundle.objective.double()
    parameters = list(model.encoder.parameters())
    for number in range(3):
        index = torch.tensor([number])
        seen = corrupt(data.images[index], "contrast", 3, seed=5, first_index=number)
        unit = bundle.preprocessing.unit(seen)
        views, turns = objective.draw(unit, key(5, "adapt", 0), index)
        normalize = bundle.preprocessing.normalize
        for parameter in parameters:
            parameter.requires_grad_(True)
        own = objective(model, normalize(views).double(), turns)
        moves = torch.autograd.grad(own, parameters, allow_unused=True)
        values = []
        with torch.no_grad():
            for sign in (1, -2, 1):
                for parameter, move in zip(parameters, moves):
                    if move is not None:
                        parameter += sign * 1e-6 * move
                logits = model(normalize(unit).double())
                values.append(cross_entropy(logits, data.labels[index]).item())
        expected = (values[0] - values[1]) / 2e-6
        assert found[number].item() == pytest.approx(expected, rel=1e-3, abs=1e-4)
    model.float().requires_grad_(False)
    objective.float()


def test_the_model_is_left_as_it_was(bundle_of, data):
    bundle = bundle_of("ttt")
    before = {name: value.clone() for name, value in bundle.modules.state_dict().items()}
    agreement(bundle, data, Shift("none", 0))
    for name, value in bundle.modules.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(p.requires_grad for p in bundle.classifier.parameters())


@pytest.mark.parametrize("name", ["source", "cta"])
def test_bundles_without_a_task_for_one_image_are_refused(bundle_of, data, name):
    with pytest.raises(InputError, match="single images"):
        agreement(bundle_of(name), data, Shift("none", 0))


def test_correlation_is_pearsons():
    generator = np.random.default_rng(1)
    first = generator.normal(size=50)
    second = 0.5 * first + generator.normal(size=50)
    found = correlation(first.tolist(), second.tolist())
    assert found.r == pytest.approx(np.corrcoef(first, second)[0, 1])
    half = 1.959964 / np.sqrt(50 - 3)
    assert np.arctanh([found.low, found.high]) == pytest.approx(
        [np.arctanh(found.r) - half, np.arctanh(found.r) + half], rel=1e-4
    )
    assert np.isnan(correlation([1, 2, 3, 4], [1, 1, 1, 1]).r)
    with pytest.raises(ValueError, match="four pairs"):
        correlation([1, 2, 3], [1, 2, 3])
