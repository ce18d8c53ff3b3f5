"""Corruption of any images of a set, and noise between the published severities."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from acclimate import randomness
from acclimate.data.corruptions import (
    AMOUNTS,
    CONSTANTS,
    CORRUPTIONS,
    corrupt,
    corrupt_by_amount,
    corrupt_numbered,
)
from acclimate.errors import InputError


def noise_images(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def grey(count, level=128):
    return torch.full((count, 3, 32, 32), level, dtype=torch.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_is_corrupted_alike_wherever_it_stands(name):
    images = noise_images(200, 3, 28, 29)
    whole = corrupt(images, name, 4, seed=5)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))[:190]
    for chosen in (order, order[:1], torch.cat([order[:3], order[:3]])):
        assert torch.equal(corrupt_numbered(images[chosen], name, 4, chosen, seed=5), whole[chosen])


@pytest.mark.parametrize("name", AMOUNTS)
@pytest.mark.parametrize("size", [32, 64, 224])
def test_amounts_are_interpolated_between_the_published_ones(name, size):
    images = noise_images(11, 3, size, size)
    index = torch.arange(11) * 7
    severities = torch.linspace(0, 5, 11, dtype=torch.float64)
    found = corrupt_by_amount(images, name, severities, index, seed=2)
    constants = np.interp(severities.numpy(), range(6), (0, *CONSTANTS[name][size]))
    origin = randomness.key(2, name, 0, "noise")
    draw = randomness.uniform if name == "impulse_noise" else randomness.normal
    draws = draw(origin, index, 3 * size * size).double().numpy().reshape(images.shape)
    for pixels, constant, drawn, ours in zip(images.numpy(), constants, draws, found.numpy()):
        if name == "impulse_noise":
            expected = np.where(drawn < constant, 0, pixels)
            expected = np.where(drawn < constant / 2, 255, expected)
        else:
            factor = pixels / 255 if name == "speckle_noise" else 1
            expected = np.floor(np.clip(pixels + 255 * constant * drawn * factor, 0, 255) + 1e-3)
        difference = np.abs(ours - expected)
        assert difference.max() <= (255 if name == "impulse_noise" else 1)
        assert (difference == 0).mean() > 0.999


@pytest.mark.parametrize("name", AMOUNTS)
def test_severity_zero_changes_nothing(name):
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, -1, -1)
    assert torch.equal(corrupt_by_amount(levels, name, torch.zeros(2), torch.arange(2)), levels)


@pytest.mark.parametrize("name", AMOUNTS)
def test_corruption_grows_steadily_with_its_severity(name):
    severities = torch.linspace(0, 5, 51)
    found = corrupt_by_amount(grey(51), name, severities, torch.full((51,), 3)).int()
    change = (found - 128).abs()
    for before, after in pairwise(change):
        if name == "impulse_noise":  # a value that is hit stays hit
            assert ((after > 0) | (before == 0)).all()
        else:
            assert (after >= before).all()
    near = corrupt_by_amount(grey(2), name, torch.tensor([2.3, 2.31]), torch.zeros(2).long()).int()
    assert (near[0] - near[1]).abs().float().mean() < 0.1


@pytest.mark.parametrize("name", AMOUNTS)
def test_whole_amounts_are_as_strong_as_the_published_severities(name):
    for severity in (1, 5):
        amounts = torch.full((40,), float(severity))
        ours = corrupt_by_amount(grey(40), name, amounts, torch.arange(40)).float().std()
        assert ours.item() == pytest.approx(
            corrupt(grey(40), name, severity).float().std().item(), rel=0.05
        )


@pytest.mark.parametrize("name", AMOUNTS)
def test_amounts_do_not_depend_on_the_batch(name):
    images, index = noise_images(200, 3, 28, 29), torch.arange(200).flip(0)
    severities = torch.linspace(5, 0, 200)
    whole = corrupt_by_amount(images, name, severities, index, seed=1)
    for rows in torch.randperm(200).split(61):
        part = corrupt_by_amount(images[rows], name, severities[rows], index[rows], seed=1)
        assert torch.equal(part, whole[rows])
    assert not torch.equal(whole, corrupt_by_amount(images, name, severities, index, seed=2))


@pytest.mark.parametrize(
    ("name", "severities", "count", "message"),
    [
        ("gausian_noise", [1.0], 1, "did you mean gaussian_noise"),
        ("fog", [2.5], 1, r"fog has no severity 2.5.*gaussian_noise"),
        ("shot_noise", [2.5], 1, "shot_noise has no severity 2.5"),
        ("gaussian_noise", [5.5], 1, "severity 5.5 does not exist.*0 to 5"),
        ("gaussian_noise", [-0.5], 1, "severity -0.5 does not exist"),
        ("gaussian_noise", [float("nan")], 1, "severity nan does not exist"),
        ("gaussian_noise", [1.0, 2.0], 1, r"1 images and severities of shape \[2\]"),
        ("gaussian_noise", [1.0, 2.0], 2, r"2 images and indices of shape \[1\]"),
    ],
)
def test_bad_amounts_get_one_clear_sentence(name, severities, count, message):
    with pytest.raises(InputError, match=message):
        corrupt_by_amount(grey(count), name, torch.tensor(severities), torch.arange(1))


def test_bad_numbers_get_one_clear_sentence():
    with pytest.raises(InputError, match=r"3 images and indices of shape \[2\]"):
        corrupt_numbered(grey(3), "fog", 1, torch.arange(2))
    with pytest.raises(InputError, match=r"severity 2.5 .*1 to 5"):
        corrupt(grey(1), "gaussian_noise", 2.5)


def test_no_images_are_no_error():
    none = torch.arange(0)
    assert corrupt_numbered(grey(0), "fog", 1, none).shape == (0, 3, 32, 32)
    assert corrupt_by_amount(grey(0), "gaussian_noise", none.float(), none).shape[0] == 0
