"""Other tensors in a classifier's place, against torch's own functional call."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from acclimate.backbones import Classifier
from acclimate.parts.teacher import Replaced


class Tied(nn.Module):
    """Two layers that share a weight, and a batch norm."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(6, 6), nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.second.weight = self.first.weight

    def forward(self, images):
        if images.isnan().any():
            raise ValueError
        return self.norm(self.second(self.first(images.flatten(1)).relu()))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Classifier(Tied(), nn.Linear(6, 3)).eval()


@pytest.fixture
def others(model):
    """Some of its parameters and statistics, and what is not its own."""
    names = (
        "encoder.first.weight",
        "encoder.second.bias",
        "encoder.norm.running_mean",
        "head.bias",
    )
    own = model.state_dict()
    found = {f"model.{name}": torch.randn_like(own[name]) for name in names}
    return found | {"objective.projector.weight": torch.randn(2, 2)}


@torch.no_grad()
def test_it_answers_as_a_functional_call(model, others):
    images = torch.rand(5, 1, 2, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    given = {n.removeprefix("model."): t for n, t in others.items() if n.startswith("model.")}
    replaced = Replaced(others)
    for _ in range(2):  # values that change in place are seen
        logits, features = replaced.answer(model, images)
        assert torch.equal(logits, functional_call(model, given, (images,)))
        assert features.shape == (5, 6) and not torch.equal(logits, model(images))
        for tensor in given.values():
            tensor.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_model_is_itself_after_an_error(model, others):
    before = [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    with pytest.raises(ValueError):
        Replaced(others).answer(model, torch.full((1, 1, 2, 3), torch.nan))
    assert [id(tensor) for tensor in (*model.parameters(), *model.buffers())] == before
