"""Shuffled patches against plain slices, and what they take from predictions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from acclimate.backbones import Classifier
from acclimate.errors import InputError
from acclimate.objectives import Destroyed, DestroyedOptions, shuffled_patches
from acclimate.objectives.destroyed import probability_drops
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import key


@given(st.integers(2, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**31))
def test_shuffled_patches_are_a_plain_loop_s(side, tall, wide, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(3, 2, side * tall, side * wide, generator=generator)
    order = torch.rand(3, side**2, generator=generator).argsort(1)
    found = shuffled_patches(images, order)
    for image in range(3):
        for place in range(side**2):
            row, column = divmod(place, side)
            of_row, of_column = divmod(int(order[image, place]), side)
            here = found[image].unfold(1, tall, tall).unfold(2, wide, wide)[:, row, column]
            there = images[image].unfold(1, tall, tall).unfold(2, wide, wide)
            assert torch.equal(here, there[:, of_row, of_column])


@pytest.mark.parametrize("size", [(30, 28), (3, 3), (4, 9)])
def test_images_that_no_grid_fits_keep_their_size(size):
    images = torch.rand(2, 3, *size)
    order = torch.rand(2, 16).argsort(1)
    found = shuffled_patches(images, order)
    assert found.shape == images.shape and found.isfinite().all()
    flat = torch.full_like(images, 0.5)
    torch.testing.assert_close(shuffled_patches(flat, order), flat)


def model():
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 8)), nn.Linear(8, 4))


def test_the_drop_is_that_of_the_predicted_class_and_has_no_gradient():
    net, images = model(), torch.rand(6, 3, 8, 8)
    objective = Destroyed(net, Preprocessing(8))
    views, order = objective.draw(images, key(0, "x"), torch.arange(6))
    assert views is images and torch.equal(order.sort(1).values, torch.arange(16).expand(6, 16))
    outcome = objective(net, views, order)
    p, q = net(images).softmax(1), net(shuffled_patches(images, order)).softmax(1)
    expected = torch.stack([a[a.argmax()] - b[a.argmax()] for a, b in zip(p, q)])
    torch.testing.assert_close(outcome.drops, expected.detach())
    assert not outcome.drops.requires_grad
    found = torch.autograd.grad(outcome.losses.sum(), list(net.parameters()))
    plain = torch.autograd.grad(-(p * p.log()).sum(), list(net.parameters()))
    for ours, theirs in zip(found, plain):
        torch.testing.assert_close(ours, theirs)


def test_images_in_their_place_drop_nothing():
    net, images = model(), torch.rand(5, 3, 8, 8)
    order = torch.arange(16).expand(5, 16)
    drops = Destroyed(net, Preprocessing(8))(net, images, order).drops
    assert torch.equal(drops, torch.zeros(5))


def test_the_order_is_each_image_s_own():
    objective = Destroyed(None, Preprocessing(8))
    images, index = torch.rand(6, 3, 8, 8), torch.arange(6)
    _, order = objective.draw(images, key(0, "x"), index)
    _, last = objective.draw(images[3:], key(0, "x"), index[3:])
    assert torch.equal(order[3:], last)


def test_drops_lie_between_minus_one_and_one_in_full_precision():
    logits, destroyed = torch.randn(2, 50, 10).mul(20).bfloat16()
    drops = probability_drops(logits, destroyed)
    assert drops.dtype == torch.float32 and drops.abs().max() <= 1


def test_one_patch_is_refused():
    with pytest.raises(InputError, match="patches must be 2 or more"):
        DestroyedOptions(patches=1).build(None, Preprocessing(8), None)
