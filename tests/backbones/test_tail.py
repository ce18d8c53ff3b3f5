import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import linear, normalize

from acclimate.backbones import projected, split
from acclimate.backbones.heads import RecordedHead, SumOfHeads
from acclimate.backbones.siamese import siamese
from acclimate.backbones.tail import cut_before_head


class Body(nn.Module):
    """Pooled features, and a way to logits that subclasses give."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 4, 3))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.first, self.second = nn.Linear(4, 5), nn.Linear(4, 5)
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, images):
        return self.logits(self.pool(self.body(images)).flatten(1))


class Averaged(Body):
    def logits(self, features):
        return (self.first(features) + self.second(features)) / 2


class Apart(Body):
    """Two heads, on two halves of the features."""

    def logits(self, features):
        one, other = features.unsqueeze(1).repeat(1, 2, 1).unbind(1)
        return torch.stack([self.first(one), self.second(2 * other)]).mean(0)


class Cosine(Body):
    """As in few-shot classifiers: no layer is called, only its weight is used."""

    def logits(self, features):
        weight = normalize(self.first.weight, dim=1)
        return self.scale.exp() * linear(normalize(features, dim=1), weight)


class Matrix(Body):
    """As in CLIP."""

    def logits(self, features):
        return self.scale.exp() * normalize(features, dim=1) @ self.second.weight.T


class Reshaped(Body):
    """Views that name the batch size."""

    def logits(self, features):
        batch = len(features)
        made = torch.cat([self.first(features), self.second(features)]).view(2 * batch, 5)
        return made.reshape(2, batch, 5).sum(0).view(batch, -1)


class InPlace(Body):
    def logits(self, features):
        logits = self.first(features)
        logits *= self.scale
        return logits.add_(1)


CLASSES = [Averaged, Apart, Cosine, Matrix, Reshaped, InPlace]


@pytest.mark.parametrize("kind", CLASSES)
def test_any_end_of_a_network_is_a_head(kind):
    torch.manual_seed(0)
    network = kind()
    keys = list(network.state_dict())
    classifier = split(network)
    assert isinstance(classifier.head, RecordedHead) and list(network.state_dict()) == keys
    for count in (1, 2, 7):
        images = torch.randn(count, 3, 20, 24)
        with torch.no_grad():
            features = classifier.encoder(images)
            assert features.shape == (count, classifier.feature_dim)
            assert torch.equal(classifier.head(features), network(images))


@pytest.mark.parametrize("kind", CLASSES)
def test_gradients_and_copies(kind):
    torch.manual_seed(0)
    network = kind()
    classifier = copy.deepcopy(split(network))
    images = torch.randn(3, 3, 20, 20)
    network(images).square().sum().backward()
    classifier(images).square().sum().backward()
    weight = classifier.get_submodule("encoder.network.body.0").weight
    torch.testing.assert_close(weight.grad, network.body[0].weight.grad)
    with torch.no_grad():
        network.first.weight.zero_()
        network.second.weight.zero_()
        assert classifier(images).std() > 1e-3  # the copy has weights of its own


def test_the_head_has_the_networks_own_tensors():
    network = Cosine()
    classifier = split(network)
    own = {id(tensor) for tensor in network.parameters()}
    assert {id(tensor) for tensor in classifier.head.parameters()} <= own
    with torch.no_grad():
        network.first.weight.copy_(torch.randn(5, 4))
        network.scale.fill_(2)
        images = torch.randn(2, 3, 20, 20)
        assert torch.equal(classifier(images), network(images))


def test_features_are_not_overwritten_by_a_head_that_works_in_place():
    class Overwrites(Body):
        def logits(self, features):
            return self.first(features.mul_(2))

    network = Overwrites()
    classifier = split(network, head="first")
    images = torch.randn(2, 3, 20, 20)
    with torch.no_grad():
        features = classifier.encoder(images)
        before = features.clone()
        classifier.head(features)
        assert torch.equal(features, before)
        assert torch.equal(classifier(images), network(images))


def test_a_twin_and_a_pair_of_any_head():
    torch.manual_seed(0)
    network = Averaged()
    classifier = split(network).eval()
    images = torch.randn(2, 3, 20, 20)
    with torch.no_grad():
        twin = projected(classifier)
        torch.testing.assert_close(twin(images), network(images))
        pair = siamese(classifier)
        assert isinstance(pair.head, SumOfHeads) and pair.feature_dim == 2 * classifier.feature_dim
        first, second = pair.votes(images)
        torch.testing.assert_close(first, network(images))
        torch.testing.assert_close(second, network(images.flip(-1)))
        torch.testing.assert_close(pair(images), first + second)


def test_what_cannot_be_followed():
    class Skips(Body):
        """The logits depend on the images beside the features."""

        def logits(self, features):
            return self.first(features) + self.shortcut

        def forward(self, images):
            self.shortcut = images.mean((1, 2, 3))[:, None]
            return super().forward(images)

    network = Skips().eval()
    assert cut_before_head(network, torch.randn(3, 3, 20, 20)) is None
