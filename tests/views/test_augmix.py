"""AugMix views against Pillow's operations and a plain loop; and that they depend on no batch."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch.nn.functional import interpolate
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from acclimate import randomness
from acclimate.randomness import uniform
from acclimate.views import augmix, augmix_views

SIZE = (36, 40)
INDEX = torch.tensor([4, 9, 1, 30])


def pictures(count=4, channels=3, size=SIZE):
    generator = torch.Generator().manual_seed(count)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    smooth = interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)
    return (smooth * 255).round() / 255


def transformed(picture, matrix):
    grey = (128, 128, 128)  # the release gives 128, which Pillow takes for a dark red
    return picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=grey
    )


def by_pillow(picture, kind, level, sign):
    """An operation as AugMix writes it, at severity 1, on a Pillow image."""
    width, height = picture.size
    match kind:
        case augmix.AUTOCONTRAST:
            return ImageOps.autocontrast(picture)
        case augmix.EQUALIZE:
            return ImageOps.equalize(picture)
        case augmix.ROTATE:
            degrees, grey = sign * int(level * 3), (128, 128, 128)
            return picture.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=grey)
        case augmix.SOLARIZE:
            return ImageOps.solarize(picture, 256 - int(level * 25.6))
        case augmix.SHEAR_X:
            return transformed(picture, (1, sign * level * 0.03, 0, 0, 1, 0))
        case augmix.SHEAR_Y:
            return transformed(picture, (1, 0, 0, sign * level * 0.03, 1, 0))
        case augmix.TRANSLATE_X:
            return transformed(picture, (1, 0, sign * int(level * width / 30), 0, 1, 0))
        case augmix.TRANSLATE_Y:
            return transformed(picture, (1, 0, 0, 0, 1, sign * int(level * height / 30)))
        case augmix.POSTERIZE:
            return ImageOps.posterize(picture, 4 - int(level * 0.4))
    return picture


@pytest.mark.parametrize("kind", range(augmix.NOTHING + 1))
@pytest.mark.parametrize("size", [SIZE, (64, 64)])
def test_operations_are_pillow_s(kind, size):
    """Up to a level: Pillow's arithmetic of positions and contrast rounds in another place."""
    given = (pictures(6, size=size) * 255).round()
    level = torch.tensor([0.1, 0.35, 0.5, 0.75, 0.99, 0.999])
    negative = torch.arange(6) % 2 == 0
    found = augmix.operated(given.clone(), torch.full((6,), kind), level, negative)
    changed = 0
    for number in range(6):
        picture = to_pil_image(given[number].to(torch.uint8))
        sign = -1 if negative[number] else 1
        expected = pil_to_tensor(by_pillow(picture, kind, level[number].item(), sign)).float()
        difference = (found[number] - expected).abs()
        assert difference.max() <= 1 and (difference > 0).float().mean() < 0.03
        changed += int(not torch.equal(expected, given[number]))
    assert (changed > 0) == (kind != augmix.NOTHING)


def test_a_channel_of_one_level_stays():
    flat = torch.full((2, 3, 5, 5), 77.0)
    level, negative = torch.ones(2), torch.ones(2, dtype=torch.bool)
    for kind in (augmix.AUTOCONTRAST, augmix.EQUALIZE):
        found = augmix.operated(flat.clone(), torch.full((2,), kind), level, negative)
        assert torch.equal(found, flat)


def one_view(crop, numbers):
    """A view from its crop and its random numbers, an operation at a time."""
    operations, lengths, weights, own = numbers.split([27, 3, 3, 1])
    operations, own = operations.view(3, 3, 3), own.item()
    weights = [-math.log(1 - weight) for weight in weights.tolist()]
    mixture = torch.zeros_like(crop)
    for chain in range(3):
        levels = (crop * 255).round()[None]
        for step in range(1 + int(3 * lengths[chain].item())):
            kind, level, sign = operations[chain, step]
            level = 0.1 + 0.9 * level[None]
            kind = torch.tensor([int(9 * kind.item())])
            levels = augmix.operated(levels, kind, level, sign[None] < 0.5)
        mixture += weights[chain] / sum(weights) * levels[0] / 255
    return own * crop + (1 - own) * mixture


@pytest.mark.parametrize("smallest_crop", [None, 0.3])
def test_views_are_those_of_a_plain_loop(smallest_crop):
    images = pictures()
    views = augmix_views(images, key=5, index=INDEX, count=3, smallest_crop=smallest_crop)
    copy = (INDEX[:, None] * 3 + torch.arange(3)).flatten()
    several = images.repeat_interleave(3, dim=0)
    crops = augmix._cropped(several, randomness.key(5, "crop"), copy, smallest_crop)
    numbers = uniform(randomness.key(5, "mix"), copy, 34)
    for view, crop, drawn in zip(views, crops, numbers, strict=True):
        torch.testing.assert_close(view, one_view(crop, drawn), atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=15)
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([None, 0.08]),
    st.data(),
)
def test_a_view_depends_on_key_and_index_alone(batch, count, channels, smallest_crop, data):
    images = pictures(batch, channels, (9, 11))
    index = torch.tensor(data.draw(st.lists(st.integers(0, 99), min_size=batch, max_size=batch)))
    settings = {"key": 3, "count": count, "smallest_crop": smallest_crop}
    views = augmix_views(images, index=index, **settings)
    assert views.shape == (batch * count, channels, 9, 11)
    assert views.min() >= 0 and views.max() <= 1 + 1e-6
    for number in range(batch):
        one = slice(number, number + 1)
        alone = augmix_views(images[one], index=index[one], **settings)
        torch.testing.assert_close(views[number * count : (number + 1) * count], alone)


def test_views_differ():
    views = augmix_views(pictures(), key=5, index=INDEX, count=2).unflatten(0, (4, 2))
    assert not torch.allclose(views[:, 0], views[:, 1], atol=0.01)
    assert not torch.allclose(
        views.flatten(0, 1), augmix_views(pictures(), key=6, index=INDEX, count=2), atol=0.01
    )


def test_chunks_leave_no_trace():
    images = torch.rand(3, 3, 64, 64)
    views = augmix_views(images, key=5, index=torch.arange(3), count=20)  # several chunks
    some = augmix_views(images[2:], key=5, index=torch.tensor([2]), count=20)
    torch.testing.assert_close(views[40:], some)


def test_what_is_not_finite_harms_no_other_image():
    images = pictures()
    images[1, 0, 3, 4], images[2] = torch.nan, torch.inf
    views = augmix_views(images, key=5, index=INDEX, count=6).unflatten(0, (4, 6))
    alone = augmix_views(images[:1], key=5, index=INDEX[:1], count=6)
    assert torch.equal(views[0], alone) and views[3].isfinite().all()
    assert not any(view.isfinite().all() for view in views[2])
