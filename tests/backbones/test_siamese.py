import copy

import pytest
import torch
from torch import nn

from acclimate.backbones import Classifier, build
from acclimate.backbones.siamese import siamese


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return build("acclimate:resnet8-w8", classes=4).eval()


def moved(model):
    """The same model with other weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def test_logits_are_the_sum_of_two_classifiers_of_an_image_and_its_mirror(classifier):
    images = torch.randn(3, 3, 16, 16)
    pair = siamese(classifier)
    expected = classifier(images) + classifier(images.flip(3))
    torch.testing.assert_close(pair(images), expected)
    assert pair.feature_dim == 2 * classifier.feature_dim and pair.num_classes == 4


def test_votes_are_each_halfs_logits_and_sum_to_the_answer(classifier):
    images = torch.randn(3, 3, 16, 16)
    pair = moved(siamese(classifier))
    first, second = pair.votes(images)
    dim, weight, bias = classifier.feature_dim, pair.head.weight, pair.head.bias / 2
    encoder = pair.encoder
    torch.testing.assert_close(first, encoder.first(images) @ weight[:, :dim].T + bias)
    torch.testing.assert_close(second, encoder.second(images.flip(3)) @ weight[:, dim:].T + bias)
    torch.testing.assert_close(first + second, pair(images))
    assert not torch.allclose(first, second)


def test_each_vote_trains_its_own_half(classifier):
    pair = siamese(classifier)
    first, _ = pair.votes(torch.randn(2, 3, 16, 16))
    first.logsumexp(1).sum().backward()
    dim = classifier.feature_dim
    assert pair.head.weight.grad[:, :dim].any()
    assert not pair.head.weight.grad[:, dim:].any()
    assert all(p.grad.any() for p in pair.encoder.first.stem.parameters())
    assert not any(p.grad.any() for p in pair.encoder.second.parameters())


def test_the_copies_are_apart_from_each_other_and_from_the_original(classifier):
    before = copy.deepcopy(classifier.state_dict())
    pair = siamese(classifier)
    moved(pair.encoder.first)
    torch.testing.assert_close(classifier.state_dict(), before, rtol=0, atol=0)
    second = pair.encoder.second.state_dict()
    torch.testing.assert_close(second, classifier.encoder.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("bias", [True, False])
def test_an_ordinary_classifier_has_one_vote(bias):
    model = Classifier(nn.Flatten(), nn.Linear(12, 5, bias=bias))
    images = torch.randn(4, 3, 2, 2)
    (only,) = model.votes(images)
    torch.testing.assert_close(only, model(images))


def test_a_head_without_bias_stays_without():
    model = Classifier(nn.Flatten(), nn.Linear(12, 5, bias=False))
    images = torch.randn(4, 3, 2, 2)
    pair = siamese(model)
    assert pair.head.bias is None
    torch.testing.assert_close(pair(images), model(images) + model(images.flip(3)))


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_random_state_are_kept(classifier, training):
    classifier.train(training)
    state = torch.get_rng_state()
    pair = siamese(classifier)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training == training for module in pair.modules())
