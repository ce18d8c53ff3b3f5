"""Shot noise, the newer blurs and the elastic transform against plain versions of them."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from acclimate import randomness
from acclimate.data.corruptions import CONSTANTS, SEVERITIES, corrupt


def smooth_images(*shape, seed=0):
    """Noise with some detail at every scale."""
    generator = np.random.default_rng(seed)
    noise = [
        ndimage.gaussian_filter(generator.normal(size=shape), (0, 0, s, s)) for s in (0, 1, 3, 9)
    ]
    total = sum(n / n.std() for n in noise)
    return torch.from_numpy((total * 30 + 128).clip(0, 255).astype(np.uint8))


def draws(count, images, name, severity, purpose):
    key = randomness.key(0, name, severity, purpose)
    return randomness.uniform(key, torch.arange(images), count).double().numpy()


def blurred(pixels, deviation):
    """One image's channels, 0..255, smoothed as scikit-image does."""
    return np.stack([ndimage.gaussian_filter(c, deviation, mode="nearest") for c in pixels])


@pytest.mark.parametrize("severity", SEVERITIES)
def test_shot_noise_is_poisson_s(severity):
    brightest = CONSTANTS["shot_noise"][224][severity - 1]
    for level in (0, 1, 77, 200, 255):
        grey = torch.full((2, 3, 224, 224), level, dtype=torch.uint8)
        found = corrupt(grey, "shot_noise", severity).flatten().numpy()
        photons = np.round(found / 255 * brightest).astype(int)
        assert np.array_equal(found, np.uint8(photons / brightest * 255))
        share = np.bincount(photons, minlength=brightest + 1) / len(photons)
        expected = stats.poisson.pmf(np.arange(brightest + 1), level / 255 * brightest)
        expected[-1] += 1 - expected.sum()  # more light than white is white
        error = np.sqrt(expected * (1 - expected) / len(photons))
        assert (np.abs(share - expected) <= 5 * error + 2 / len(photons)).all()


@pytest.mark.parametrize("height_width", [(224, 224), (130, 170)])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_blur_is_scipy_s(severity, height_width):
    deviation = CONSTANTS["gaussian_blur"][224][severity - 1] * min(height_width) / 224
    images = smooth_images(1, 3, *height_width)
    expected = blurred(images[0].double().numpy(), deviation)
    ours = corrupt(images, "gaussian_blur", severity)[0].numpy()
    assert np.abs(ours - np.floor(expected)).max() <= 1
    assert (ours == np.floor(expected)).mean() > 0.99


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("size", [32, 64, 224])
def test_glass_blur_overwrites_pixels_from_the_last_to_the_first(size, severity):
    deviation, distance, passes = CONSTANTS["glass_blur"][size][severity - 1]
    images = smooth_images(2, 3, size, size + 3)
    ours = corrupt(images, "glass_blur", severity)
    for turn in range(passes):
        chance = draws(size * (size + 3), 2, "glass_blur", severity, f"offsets {turn}")
        option = (chance * (2 * distance) ** 2).astype(int).reshape(2, size, size + 3)
        down, across = option // (2 * distance) - distance, option % (2 * distance) - distance
        if turn == 0:
            pixels = [np.floor(blurred(i.double().numpy(), deviation) + 1e-3) for i in images]
        for image, dy, dx in zip(pixels, down, across, strict=True):
            for y in range(size - distance, distance, -1):
                for x in range(size + 3 - distance, distance, -1):
                    image[:, y, x] = image[:, y + dy[y, x], x + dx[y, x]]
    expected = [np.floor(blurred(image, deviation) + 1e-3) for image in pixels]
    difference = np.abs(ours.numpy() - np.stack(expected))
    assert difference.max() <= 2
    assert difference.mean() < 0.01


@pytest.mark.parametrize("height_width", [(224, 224), (160, 200)])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_zoom_blur_is_the_mean_of_scipy_s_zooms(severity, height_width):
    images = smooth_images(1, 3, *height_width)
    layers = [pixels := images[0].double().numpy()]
    for factor in np.arange(1, *CONSTANTS["zoom_blur"][224][severity - 1]):
        crop = [math.ceil(length / factor) for length in height_width]
        top, left = ((old - new) // 2 for old, new in zip(height_width, crop, strict=True))
        inner = pixels[:, top : top + crop[0], left : left + crop[1]]
        grown = ndimage.zoom(inner, (1, factor, factor), order=1, mode="nearest")
        top, left = (
            (new - old) // 2 for old, new in zip(height_width, grown.shape[1:], strict=True)
        )
        layers.append(grown[:, top : top + height_width[0], left : left + height_width[1]])
    expected = np.mean(layers, axis=0)
    ours = corrupt(images, "zoom_blur", severity)[0].numpy()
    assert np.abs(ours - np.floor(expected)).max() <= 1
    assert (ours == np.floor(expected)).mean() > 0.97


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize(
    ("size", "height_width"), [(32, (32, 32)), (64, (64, 90)), (224, (224, 224)), (224, (160, 140))]
)
def test_elastic_transform_is_an_affine_map_and_a_smooth_field(size, height_width, severity):
    height, width = height_width
    scale = min(height_width) / size
    strength, deviation, jitter = (
        c * scale for c in CONSTANTS["elastic_transform"][size][severity - 1]
    )
    images = smooth_images(2, 3, height, width)
    name = "elastic_transform"
    corners, across, down = (
        draws(count, 2, name, severity, purpose) * 2 - 1
        for purpose, count in (("corners", 6), ("across", height * width), ("down", height * width))
    )
    third, (x, y) = min(height, width) // 3, (width // 2, height // 2)
    straight = np.array([[x + third, y + third], [x + third, y - third], [x - third, y - third]])
    rows, columns = np.mgrid[:height, :width]
    places = np.stack([columns.ravel(), rows.ravel(), np.ones(height * width)])
    ours = corrupt(images, name, severity).numpy()
    for i, image in enumerate(images.double().numpy()):
        moved = straight + corners[i].reshape(3, 2) * jitter
        back = np.linalg.solve(np.column_stack([moved, np.ones(3)]), straight)  # [3, 2]
        source = (back.T @ places)[::-1].reshape(2, height, width)
        expected = [ndimage.map_coordinates(c, source, order=1, mode="mirror") for c in image]
        if strength:
            field = [
                ndimage.gaussian_filter(f[i].reshape(height, width), deviation, truncate=3)
                for f in (down, across)
            ]
            source = np.stack([rows, columns]) + np.stack(field) * strength
            expected = [
                ndimage.map_coordinates(c, source, order=1, mode="reflect") for c in expected
            ]
        difference = np.abs(ours[i] - np.floor(expected))
        assert (difference <= 1).mean() > 0.999
        assert difference.max() <= 3


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2), (9, 4)])
@pytest.mark.parametrize(
    "name", ["shot_noise", "gaussian_blur", "glass_blur", "zoom_blur", "elastic_transform"]
)
def test_tiny_images_work(name, shape):
    images = torch.full((2, 3, *shape), 120, dtype=torch.uint8)
    corrupted = corrupt(images, name, 5)
    assert corrupted.shape == images.shape
    if name != "shot_noise":
        assert torch.equal(corrupted, images)


@pytest.mark.parametrize("name", ["gaussian_blur", "glass_blur", "zoom_blur", "elastic_transform"])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_flat_images_stay_as_they_are(name, severity):
    images = torch.arange(256, dtype=torch.uint8)[::5, None, None, None].expand(-1, 3, 45, 37)
    assert torch.equal(corrupt(images, name, severity), images)
