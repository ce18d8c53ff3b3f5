import numpy as np
import pytest
import torch
from scipy import stats

from acclimate.randomness import key, uniform
from acclimate.views.augment import cutout, shifted_crop

GENERATOR = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shifted_crop_equals_a_plain_loop(dtype):
    images = torch.randint(1, 256, (30, 3, 7, 9), generator=GENERATOR).to(dtype)
    index = torch.arange(200, 230)
    found = shifted_crop(images, 3, key=11, index=index)
    numbers = uniform(11, index, 3).numpy()
    for image, (down, right, mirror), ours in zip(images.numpy(), numbers, found):
        padded = np.pad(image, ((0, 0), (3, 3), (3, 3)))
        top, left = int(down * 7), int(right * 7)
        expected = padded[:, top : top + 7, left : left + 9]
        np.testing.assert_array_equal(ours, expected[..., ::-1] if mirror < 0.5 else expected)
    assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last)


def test_shifted_crops_are_drawn_evenly():
    count = 3000
    image = torch.randint(1, 256, (3, 5, 5), generator=GENERATOR).byte()
    found = shifted_crop(image.expand(count, -1, -1, -1), 1, key=12, index=torch.arange(count))
    padded = np.pad(image.numpy(), ((0, 0), (1, 1), (1, 1)))
    crops = [padded[:, y : y + 5, x : x + 5] for y in range(3) for x in range(3)]
    possible = torch.from_numpy(np.stack([*crops, *(crop[..., ::-1] for crop in crops)]))
    matches = (found[:, None] == possible).flatten(2).all(2)  # [count, 18]
    assert (matches.sum(1) == 1).all()
    assert stats.chisquare(matches.sum(0).numpy()).pvalue > 1e-3


def test_shifted_crop_depends_on_key_and_index_alone():
    images = torch.randint(0, 256, (9, 3, 8, 8), generator=GENERATOR).byte()
    index = torch.arange(9)
    whole = shifted_crop(images, 2, key=key(0, "test"), index=index)
    order = torch.randperm(9)
    found = shifted_crop(images[order], 2, key=key(0, "test"), index=index[order])
    assert torch.equal(found, whole[order])
    assert not torch.equal(shifted_crop(images, 2, key=key(1, "test"), index=index), whole)


def test_no_padding_shifts_nothing():
    images = torch.randint(0, 256, (20, 3, 4, 4), generator=GENERATOR).byte()
    found = shifted_crop(images, 0, key=0, index=torch.arange(20))
    same = (found == images).flatten(1).all(1)
    mirrored = (found == images.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all() and same.any() and mirrored.any()


@pytest.mark.parametrize("size", [1, 2, 5, 20])
def test_cutout_equals_a_plain_loop(size):
    images = torch.randint(1, 256, (40, 3, 7, 9), generator=GENERATOR).byte()
    index = torch.arange(300, 340)
    found = cutout(images, size, key=13, index=index)
    for image, (down, right), ours in zip(images.numpy(), uniform(13, index, 2).numpy(), found):
        expected = image.copy()
        top, left = int(down * 7) - size // 2, int(right * 9) - size // 2
        expected[:, max(0, top) : max(0, top + size), max(0, left) : max(0, left + size)] = 0
        np.testing.assert_array_equal(ours, expected)
    assert found.dtype == torch.uint8


def test_cutout_keeps_the_memory_layout_and_nothing_hidden_is_nothing_changed():
    images = torch.randint(0, 256, (5, 3, 8, 8), generator=GENERATOR).byte()
    images = images.to(memory_format=torch.channels_last)
    index = torch.arange(5)
    assert cutout(images, 3, key=0, index=index).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(cutout(images, 0, key=0, index=index), images)


def test_cutout_depends_on_key_and_index_alone():
    images = torch.randint(1, 256, (9, 3, 8, 8), generator=GENERATOR).byte()
    index = torch.arange(9)
    whole = cutout(images, 4, key=1, index=index)
    order = torch.randperm(9)
    assert torch.equal(cutout(images[order], 4, key=1, index=index[order]), whole[order])
    assert not torch.equal(cutout(images, 4, key=2, index=index), whole)
