"""All views in the same operations, as on a GPU, are those in groups, as on a CPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.views import SimCLRViews, simclr, simclr_views
from acclimate.views.rotate import _rotate_together, rotate

WIDE = SimCLRViews(smallest_crop=0.08, brightness=1.2, contrast=0.9, saturation=0.9, hue=0.5)


def both(monkeypatch, images, drawn, key, count):
    index = torch.arange(7, 7 + len(images))
    with monkeypatch.context() as patch:
        grouped = simclr_views(images, drawn, key=key, index=index, count=count)
        patch.setattr(simclr, "_grouped", simclr._together)
        return grouped, simclr_views(images, drawn, key=key, index=index, count=count)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("drawn", [SimCLRViews(), WIDE])
def test_both_ways_give_the_same_views(monkeypatch, channels, drawn):
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        size = [(16, 16), (9, 13), (1, 1)][seed % 3]
        images = torch.rand(40, channels, *size, generator=generator)
        if channels == 3:  # colours without a hue, or with two largest channels
            images[0], images[1], images[2, 1:], images[3, 1] = 0, 1, images[2, :1], images[3, 0]
        before = images.clone()
        grouped, found = both(monkeypatch, images, drawn, seed, 1 + seed % 3)
        torch.testing.assert_close(found, grouped, rtol=0, atol=2e-6)
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(images, before)


def test_what_is_not_jittered_keeps_its_bits(monkeypatch):
    images = torch.rand(60, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    grouped, found = both(
        monkeypatch, images, SimCLRViews(jitter_probability=0.3, grey_probability=0.3), 5, 2
    )
    plain, _ = both(
        monkeypatch, images, SimCLRViews(jitter_probability=0, grey_probability=0), 5, 2
    )
    kept = (grouped == plain).flatten(1).all(1)
    assert 40 < kept.sum() < 80  # of 120, 0.49
    assert torch.equal(found[kept], plain[kept])


def test_no_images_give_no_views(monkeypatch):
    for views in both(monkeypatch, torch.rand(0, 3, 8, 8), SimCLRViews(), 1, 2):
        assert views.shape == (0, 3, 8, 8)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(0, 9), st.integers(1, 6), st.integers(1, 4))
def test_both_ways_turn_images_alike(seed, batch, side, channels):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(batch, channels, side, side, generator=generator)
    turns = torch.randint(0, 4, (batch,), generator=generator)
    assert torch.equal(_rotate_together(images, turns), rotate(images, turns))
