"""Mild views against plain loops; and that an image's views depend on nothing but its index."""

import math

import pytest
import torch
from torch.nn.functional import conv2d, interpolate, pad

from acclimate.views import mild_views
from acclimate.views.mild import _placed, blurred

IMAGES = torch.rand(6, 3, 9, 7, generator=torch.Generator().manual_seed(0))
INDEX = torch.tensor([4, 9, 1, 30, 2, 7])


def test_a_view_depends_on_key_and_index_alone():
    views = mild_views(IMAGES, key=5, index=INDEX, count=3)
    assert views.shape == (18, 3, 9, 7) and views.min() >= 0 and views.max() <= 1
    for place in (0, 3):
        one = slice(place, place + 1)
        alone = mild_views(IMAGES[one], key=5, index=INDEX[one], count=3)
        torch.testing.assert_close(views[place::6], alone, atol=1e-6, rtol=0)
    assert not torch.allclose(views[:6], views[6:12], atol=0.01)
    assert not torch.allclose(views, mild_views(IMAGES, key=6, index=INDEX, count=3), atol=0.01)


def test_a_large_batch_is_taken_in_chunks_without_a_trace():
    images = torch.rand(300, 3, 32, 32)
    views = mild_views(images, key=5, index=torch.arange(300))
    some = mild_views(images[250:260], key=5, index=torch.arange(250, 260))
    torch.testing.assert_close(views[250:260], some, atol=1e-6, rtol=0)


def test_views_are_mild():
    """Most of what is seen stays: nearer to their image, a symmetric one, than to another."""
    coarse = torch.rand(8, 3, 3, 3, generator=torch.Generator().manual_seed(2))
    smooth = interpolate(coarse, size=(32, 32), mode="bicubic").clamp(0, 1)
    images = (smooth + smooth.flip(-1)) / 2
    views = mild_views(images, key=5, index=torch.arange(8), count=8).view(8, 8, 3, 32, 32)
    own = (views - images).abs().mean()
    other = (views - images.roll(1, 0)).abs().mean()
    assert 0.02 < own < 0.75 * other


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_any_number_of_channels_will_do(channels):
    images = torch.rand(5, channels, 8, 8)
    views = mild_views(images, key=1, index=torch.arange(5), count=2)
    assert views.shape == (10, channels, 8, 8) and views.isfinite().all()


def test_the_blur_is_a_gaussian_of_25_pixels():
    images = torch.rand(4, 3, 12, 11)
    widths = torch.tensor([0.001, 0.2, 0.5, 3.0])
    found = blurred(images, widths)
    for image, width, got in zip(images, widths.tolist(), found):
        line = torch.tensor([math.exp(-0.5 * (k / width) ** 2) for k in (-2, -1, 0, 1, 2)])
        line = line / line.sum()
        kernel = (line[:, None] * line).expand(3, 1, 5, 5)
        torch.testing.assert_close(got, conv2d(image[None], kernel, groups=3)[0])


def placed_slowly(image, numbers, flip):
    """One image: each pixel looks back to where it comes from; edges are continued."""
    angle, zoom, down, across = (2 * x - 1 for x in numbers)
    angle, zoom = math.radians(15 * angle), 1 + 0.1 * zoom
    _, height, width = image.shape
    down, across = round(down * height / 8), round(across * width / 8)
    wide = pad(image[None], (40, 40, 40, 40), mode="replicate")[0]
    result = torch.empty(3, height + 4, width + 4)
    for row in range(-2, height + 2):
        for column in range(-2, width + 2):
            x, y = column - (width - 1) / 2, row - (height - 1) / 2
            x, y = (-x if flip else x) - across, y - down
            u = (math.cos(angle) * x - math.sin(angle) * y) / zoom + (width - 1) / 2
            v = (math.sin(angle) * x + math.cos(angle) * y) / zoom + (height - 1) / 2
            left, top = math.floor(u), math.floor(v)
            value = torch.zeros(3)
            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = abs(1 - i - (v - top)) * abs(1 - j - (u - left))
                value += weight * wide[:, top + i + 40, left + j + 40]
            result[:, row + 2, column + 2] = value
    return result


def test_places_are_those_of_a_plain_loop():
    numbers = torch.rand(6, 4, generator=torch.Generator().manual_seed(1))
    flip = torch.arange(6) % 2 == 0
    found = _placed(IMAGES, numbers, flip)
    for image, drawn, mirrored, got in zip(IMAGES, numbers.tolist(), flip.tolist(), found):
        expected = placed_slowly(image, drawn, mirrored)
        torch.testing.assert_close(got, expected, atol=2e-4, rtol=0)
