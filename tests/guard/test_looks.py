import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.guard.looks import LOOKS, Places, looks


def slow(image):
    """The numbers of one image of floats, pixel by pixel."""
    channels, height, width = image.shape
    value = image.tolist()
    grey = [[sum(value[c][i][j] for c in range(channels)) / channels for j in range(width)]
            for i in range(height)]  # fmt: skip
    every = [g for row in grey for g in row]
    mean = sum(every) / len(every)
    contrast = math.sqrt(sum((g - mean) ** 2 for g in every) / (len(every) - 1))
    pixels = [
        [value[c][i][j] for c in range(channels)] for i in range(height) for j in range(width)
    ]
    colour = sum(max(p) - min(p) for p in pixels) / len(pixels)
    inner = [
        abs(4 * grey[i][j] - grey[i - 1][j] - grey[i + 1][j] - grey[i][j - 1] - grey[i][j + 1])
        for i in range(1, height - 1)
        for j in range(1, width - 1)
    ]
    down = [abs(grey[i + 1][j] - grey[i][j]) for i in range(height - 1) for j in range(width)]
    right = [abs(grey[i][j + 1] - grey[i][j]) for i in range(height) for j in range(width - 1)]
    sharp = sum(inner) / len(inner) + 1e-3
    edges = sum(down) / len(down) + sum(right) / len(right) + 1e-3
    return [mean, contrast, colour, math.log(sharp), math.log(sharp / edges)]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_it_is_the_plain_loop(channels):
    images = torch.rand(3, channels, 5, 7, generator=torch.Generator().manual_seed(channels))
    expected = torch.tensor([slow(image) for image in images])
    torch.testing.assert_close(looks(images), expected, atol=1e-5, rtol=1e-5)


def test_images_of_two_pixels_have_numbers():
    assert looks(torch.rand(2, 3, 2, 2)).isfinite().all()


@pytest.fixture
def places():
    draw = torch.Generator().manual_seed(0)
    source = torch.randn(200, len(LOOKS), generator=draw) * torch.tensor([1.0, 2, 3, 4, 5]) + 7
    sets = [source, source + 10, source - 20]
    return Places.between(source, sets), sets


def test_a_stream_looks_like_the_set_that_it_is(places):
    known, sets = places
    for number, each in enumerate(sets):
        alike = known.alike(each.mean(0))
        assert alike[number] == pytest.approx(1, abs=1e-5)
        assert (alike[torch.arange(3) != number] < 0.05).all()
    assert known.place(sets[0].mean(0)).abs().max() < 1e-4


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=5))
def test_how_alike_is_a_share_whatever_the_images(mean):
    source = torch.randn(50, 5, generator=torch.Generator().manual_seed(1))
    source[:, 2] = 0.0  # grey images have no colour
    known = Places.between(source, [source, source + 2])
    alike = known.alike(torch.tensor(mean))
    assert alike.isfinite().all() and (alike >= 0).all() and (alike <= 1).all()


def test_a_bundle_keeps_them(places):
    known, sets = places
    again = Places.of(known.tensors("places."), "places.")
    assert torch.equal(again.alike(sets[1].mean(0)), known.alike(sets[1].mean(0)))
