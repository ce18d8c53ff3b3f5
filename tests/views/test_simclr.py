import pytest
import torch
import torchvision.transforms.functional as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms import RandomResizedCrop

from acclimate.randomness import uniform
from acclimate.views import colours
from acclimate.views import simclr as views
from acclimate.views.simclr import SimCLRViews, draw_boxes, draw_jitter, simclr_views

GENERATOR = torch.Generator().manual_seed(0)
BATCH, HEIGHT, WIDTH = 12, 17, 23
LAST = 1 - 2**-24  # the largest number that `uniform` gives


def coloured():
    """Random images, and those whose hue has no meaning: black, white, grey, two equal channels."""
    images = torch.rand(BATCH, 3, HEIGHT, WIDTH, generator=GENERATOR)
    images[0], images[1] = 0, 1
    images[2] = images[2, :1]
    images[3, 1] = images[3, 0]
    images[4, 2] = images[4, 1]
    images[5, 2] = images[5, 0]
    return images


OPERATIONS = [
    (colours.adjust_brightness, reference.adjust_brightness, 0, 2),
    (colours.adjust_contrast, reference.adjust_contrast, 0, 2),
    (colours.adjust_saturation, reference.adjust_saturation, 0, 2),
    (colours.adjust_hue, reference.adjust_hue, -0.5, 0.5),
]


@pytest.mark.parametrize("ours, theirs, low, high", OPERATIONS)
def test_colour_operations_equal_torchvisions(ours, theirs, low, high):
    images, factors = coloured(), torch.linspace(low, high, BATCH)[torch.randperm(BATCH)]
    before = images.clone()
    found = ours(images, factors)
    expected = torch.stack([theirs(image, f.item()) for image, f in zip(images, factors)])
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    assert torch.equal(images, before)


def test_luma_equals_torchvisions():
    images = coloured()
    torch.testing.assert_close(colours.luma(images), reference.rgb_to_grayscale(images))


def jittered(image, factors, order):
    for number in order.tolist():
        image = OPERATIONS[number][1](image, factors[number].item())
    return image


def test_jitter_follows_each_images_order():
    images = coloured()
    factors, order = draw_jitter(uniform(1, torch.arange(BATCH), 8), SimCLRViews())
    expected = torch.stack([jittered(*each) for each in zip(images, factors, order)])
    torch.testing.assert_close(views.jitter(images, factors, order), expected, rtol=0, atol=5e-5)
    assert len({tuple(row) for row in order.tolist()}) > 6


@pytest.mark.parametrize("antialias", [True, False])
def test_resized_crop_equals_torchvisions(antialias):
    images = torch.rand(40, 3, HEIGHT, WIDTH, generator=GENERATOR)
    boxes = draw_boxes(uniform(2, torch.arange(40), 20), HEIGHT, WIDTH, 0.02)
    boxes[0] = torch.tensor([0, 0, HEIGHT, WIDTH])
    boxes[1] = torch.tensor([5, 7, 1, 1])
    boxes[2] = torch.tensor([HEIGHT - 1, 0, 1, WIDTH])
    flip = torch.arange(40) % 3 == 0
    found = views.resized_crop(images, boxes, flip=flip)
    for image, box, mirror, ours in zip(images, boxes, flip, found):
        theirs = reference.resized_crop(
            image, *box.tolist(), size=[HEIGHT, WIDTH], antialias=antialias
        )
        theirs = reference.hflip(theirs) if mirror else theirs
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, LAST]), min_size=20, max_size=20),
    st.integers(1, 64),
    st.integers(1, 64),
    st.floats(0.01, 1),
)
def test_boxes_lie_in_the_image(numbers, height, width, smallest):
    top, left, crop_height, crop_width = draw_boxes(
        torch.tensor([numbers]), height, width, smallest
    )[0].tolist()
    assert crop_height >= 1 and crop_width >= 1
    assert 0 <= top <= height - crop_height and 0 <= left <= width - crop_width


def test_boxes_have_the_drawn_areas_and_ratios():
    boxes = draw_boxes(uniform(3, torch.arange(20_000), 20), 32, 32, 0.2).double()
    _, _, height, width = boxes.T
    # Sides are rounded to whole pixels.
    assert ((height + 0.5) * (width + 0.5) >= 0.2 * 32 * 32).all()
    assert ((height - 0.5) * (width - 0.5) <= 32 * 32).all()
    assert ((width - 0.5) / (height + 0.5) <= 4 / 3).all()
    assert ((width + 0.5) / (height - 0.5) >= 3 / 4).all()


def test_boxes_are_distributed_as_torchvisions():
    ours = draw_boxes(uniform(4, torch.arange(20_000), 20), 32, 32, 0.2).double()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.empty(3, 32, 32)
        theirs = torch.tensor(
            [RandomResizedCrop.get_params(image, [0.2, 1], [3 / 4, 4 / 3]) for _ in range(4000)]
        ).double()

    def features(boxes):
        top, left, height, width = boxes.T
        return [top, left, height, width, height * width, width / height, top + height / 2]

    for a, b in zip(features(ours), features(theirs)):
        error = (a.var() / len(a) + b.var() / len(b)).sqrt()
        assert abs(a.mean() - b.mean()) < 4 * error
        assert b.std() == pytest.approx(a.std().item(), rel=0.05)


def test_jitter_is_drawn_evenly():
    wide = SimCLRViews(brightness=1.5, contrast=0.4, saturation=0.2, hue=0.1)
    factors, order = draw_jitter(uniform(5, torch.arange(12_000), 8), wide)
    assert factors[:, 0].min() == 0 and factors[:, 0].max() > 2.49  # no negative brightness
    for column, (low, high) in enumerate([(0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)], start=1):
        share = (factors[:, column] - low) / (high - low)
        assert stats.kstest(share.numpy(), "uniform").pvalue > 1e-3
    counts = (order * torch.tensor([64, 16, 4, 1])).sum(1).unique(return_counts=True)[1]
    assert len(counts) == 24 and stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_views_equal_torchvisions_one_by_one():
    images, index = coloured(), torch.arange(100, 100 + BATCH)
    drawn = SimCLRViews(smallest_crop=0.3)
    found = simclr_views(images, drawn, key=6, index=index)
    numbers = uniform(6, index, 31)
    boxes = draw_boxes(numbers[:, :20], HEIGHT, WIDTH, 0.3)
    factors, order = draw_jitter(numbers[:, 21:29], drawn)
    for i, image in enumerate(images):
        image = reference.resized_crop(image, *boxes[i].tolist(), size=[HEIGHT, WIDTH])
        if numbers[i, 20] < 0.5:
            image = reference.hflip(image)
        if numbers[i, 29] < 0.8:
            image = jittered(image, factors[i], order[i])
        if numbers[i, 30] < 0.2:
            image = reference.rgb_to_grayscale(image, 3)
        torch.testing.assert_close(found[i], image, rtol=0, atol=1e-4)


def test_a_view_depends_on_key_and_index_alone(monkeypatch):
    images, index = coloured(), torch.arange(50, 50 + BATCH)
    whole = simclr_views(images, SimCLRViews(), key=7, index=index, count=2)
    assert whole.shape == (2 * BATCH, 3, HEIGHT, WIDTH)
    assert whole.min() >= 0 and whole.max() <= 1
    assert whole.is_contiguous(memory_format=torch.channels_last)
    first, second = whole.chunk(2)
    assert not torch.isclose(first, second).all()
    assert torch.equal(simclr_views(images, SimCLRViews(), key=7, index=index), first)
    order = torch.randperm(BATCH)
    found = simclr_views(images[order], SimCLRViews(), key=7, index=index[order], count=2)
    torch.testing.assert_close(
        found, whole.view(2, BATCH, *whole.shape[1:])[:, order].flatten(0, 1)
    )
    for start, stop in ((0, 1), (1, 8), (8, BATCH)):
        part = simclr_views(
            images[start:stop], SimCLRViews(), key=7, index=index[start:stop], count=2
        )
        torch.testing.assert_close(part, torch.cat([first[start:stop], second[start:stop]]))
    for values in (1, 3 * HEIGHT * WIDTH * 5, 2**40):
        monkeypatch.setattr(views, "_CHUNK_VALUES", values)
        found = simclr_views(images, SimCLRViews(), key=7, index=index, count=2)
        torch.testing.assert_close(found, whole)
    other = simclr_views(images, SimCLRViews(), key=8, index=index, count=2)
    same = torch.isclose(other, whole).flatten(1).all(1).view(2, BATCH)
    assert not same[:, 2:].any()  # the first two are black and white


def test_same_image_at_two_places_gives_two_views():
    image = torch.rand(1, 3, 16, 16, generator=GENERATOR).expand(2, -1, -1, -1)
    one, two = simclr_views(image, SimCLRViews(), key=1, index=torch.tensor([4, 5]))
    assert not torch.allclose(one, two)


def test_given_images_stay_as_they_are():
    images = coloured()
    before = images.clone()
    simclr_views(images, SimCLRViews(), key=7, index=torch.arange(BATCH), count=2)
    assert torch.equal(images, before)


def test_shares_of_flipped_jittered_and_grey_views():
    count = 4000
    images = torch.rand(count, 3, 6, 6, generator=GENERATOR)
    index, flipped_images = torch.arange(count), images.flip(3)

    def drawn(**settings):
        # With the whole area there is but one box, so that a view shows what else was done.
        return simclr_views(images, SimCLRViews(smallest_crop=1, **settings), key=9, index=index)

    def equal(found, expected):
        return torch.isclose(found, expected, atol=1e-5).flatten(1).all(1)

    def assert_share(chosen, probability):
        error = (probability * (1 - probability) / count) ** 0.5
        assert chosen.double().mean().item() == pytest.approx(probability, abs=4 * error)

    found = drawn(jitter_probability=0, grey_probability=0)
    flipped = equal(found, flipped_images)
    assert (flipped ^ equal(found, images)).all()
    assert_share(flipped, 0.5)
    found = drawn(grey_probability=0)
    changed = ~(equal(found, images) | equal(found, flipped_images))
    assert_share(changed, 0.8)
    found = drawn(jitter_probability=0)
    grey = equal(found, found[:, :1].expand_as(found))
    assert_share(grey, 0.2)
    both = torch.stack([flipped, changed, grey]).double().corrcoef() - torch.eye(3)
    assert both.abs().max() < 5 / count**0.5


def test_probabilities_of_0_and_1():
    images, index = torch.rand(50, 3, 6, 6, generator=GENERATOR), torch.arange(50)
    never = SimCLRViews(grey_probability=0, jitter_probability=0)
    always = SimCLRViews(grey_probability=1, jitter_probability=0)
    colour = simclr_views(images, never, key=1, index=index)
    assert not torch.isclose(colour[:, 0], colour[:, 1]).flatten(1).all(1).any()
    expected = colours.luma(colour).expand(-1, 3, -1, -1)
    torch.testing.assert_close(simclr_views(images, always, key=1, index=index), expected)


@pytest.mark.parametrize("operation", range(4))
def test_grey_images_are_jittered_as_torchvisions(operation):
    """Brightness and contrast; a grey image has neither saturation nor hue."""
    images = torch.rand(BATCH, 1, HEIGHT, WIDTH, generator=GENERATOR)
    factors = torch.tensor([[0.6, 1.4, 0.7, 0.05]]).expand(BATCH, -1)
    order = torch.tensor([operation, *(n for n in range(4) if n != operation)]).expand(BATCH, -1)
    found = views.jitter(images, factors, order)
    for image, result in zip(images, found):
        torch.testing.assert_close(result, jittered(image, factors[0], order[0]), atol=2e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 4])
def test_views_of_other_channels(channels):
    """Views of four channels are crops and flips: all channels move together."""
    images = torch.rand(BATCH, 1, HEIGHT, WIDTH, generator=GENERATOR).expand(-1, channels, -1, -1)
    index = torch.arange(BATCH)
    found = simclr_views(images, SimCLRViews(), key=1, index=index, count=2)
    assert found.shape == (2 * BATCH, channels, HEIGHT, WIDTH)
    plain = SimCLRViews(jitter_probability=0, grey_probability=0)
    of_colours = simclr_views(
        images[:, :1].expand(-1, 3, -1, -1), plain, key=1, index=index, count=2
    )
    if channels == 4:
        torch.testing.assert_close(found, of_colours[:, :1].expand_as(found))
