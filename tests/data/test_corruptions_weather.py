import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from acclimate import randomness
from acclimate.data.corruptions import CONSTANTS, corrupt, frost, layers, spatter
from acclimate.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Stands in for the installed package that brings pictures of frost: one colour each."""
    folder = tmp_path / "imagecorruptions" / "frost"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise ImportError('must not be imported')")
    for number, name in enumerate(frost._FILES):
        Image.new("RGB", (500 + number, 400), (40 * number, 100, 200)).save(
            folder / name, quality=100
        )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("ACCLIMATE_FROST", raising=False)
    frost._textures.cache_clear()
    yield
    frost._textures.cache_clear()


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.delenv("ACCLIMATE_FROST", raising=False)
    monkeypatch.setattr(frost, "find_spec", lambda name: None)
    frost._textures.cache_clear()
    yield
    frost._textures.cache_clear()


def grey(*size, level=100):
    return torch.full(size, level, dtype=torch.uint8)


# Snow.


@pytest.mark.parametrize("severity", [2, 3, 5])
def test_snow_is_a_plain_version_s(severity):
    """SciPy's zoom, and a streak of looked-up pixels that lie above."""
    mean, deviation, zoom, threshold, radius, spread, kept = CONSTANTS["snow"][32][severity - 1]
    first = torch.arange(2)
    key = [randomness.key(0, "snow", severity, purpose) for purpose in ("flakes", "angle")]
    noise = randomness.normal(key[0], first, 32 * 32).view(2, 32, 32).numpy()
    angles = np.deg2rad(randomness.uniform(key[1], first, 1)[:, 0].numpy() * 90.0 - 45)
    weights = np.exp(-(np.arange(2 * radius + 1.0) ** 2) / (2 * spread**2))
    weights /= weights.sum()
    images = grey(2, 3, 32, 32)
    ours = corrupt(images, "snow", severity).numpy()
    for normal, angle, found in zip(noise, angles, ours, strict=True):
        crop = int(np.ceil(32 / zoom))
        top = (32 - crop) // 2
        part = (normal.T * deviation + mean)[top : top + crop, top : top + crop]
        part = ndimage.zoom(part, zoom, order=1)
        top = (len(part) - 32) // 2
        part = part[top : top + 32, top : top + 32]
        part = (np.where(part < threshold, 0, part).clip(0, 1) * 255).astype(np.uint8)
        snow = np.zeros((32, 32))
        for y, x in np.ndindex(32, 32):
            for step, weight in enumerate(weights):
                row = y - np.ceil(step * np.cos(angle) - 0.5)
                column = x + np.ceil(step * np.sin(angle) - 0.5)
                snow[y, x] += weight * part[int(max(row, 0)), int(np.clip(column, 0, 31))]
        snow = np.floor(snow + 0.5) / 255
        value = 100 / 255
        value = kept * value + (1 - kept) * max(value, value * 1.5 + 0.5)
        expected = np.floor((value + snow + snow[::-1, ::-1]).clip(0, 1) * 255)
        assert np.abs(found - expected).max() <= 2


# Frost.


def test_frost_takes_the_installed_pictures_without_importing_the_package(pictures):
    textures, source = frost.frost_textures()
    assert source == "imagecorruptions"
    assert [tuple(t.shape) for t in textures] == [(3, 400, 500 + n) for n in range(5)]
    image_weight, frost_weight, _ = CONSTANTS["frost"][32][3]
    frosted = corrupt(grey(500, 3, 32, 32), "frost", 4)
    assert "imagecorruptions" not in sys.modules
    expected = torch.tensor([image_weight * 100 + frost_weight * 40 * n for n in range(5)])
    distance = (frosted[:, 0, 0, 0].float()[:, None] - expected).abs()
    assert distance.amin(1).max() <= 2  # JPEG's error, and the cut-off
    share = distance.argmin(1).bincount(minlength=5) / 500
    assert share.tolist() == pytest.approx([0.2] * 5, abs=0.06)


def test_frost_without_pictures_has_the_benchmark_s_colours(no_pictures):
    textures, source = frost.frost_textures()
    assert source == "synthetic"
    for texture, (mean, deviation, _) in zip(textures, frost._STATISTICS, strict=True):
        assert texture.double().mean((1, 2)).tolist() == pytest.approx(mean, abs=0.5)
        assert texture.double().std((1, 2)).tolist() == pytest.approx(deviation, abs=1)


def test_frost_takes_the_pictures_of_a_folder(tmp_path, monkeypatch, pictures):
    monkeypatch.setenv("ACCLIMATE_FROST", str(tmp_path / "white"))
    with pytest.raises(InputError, match="holds no images: name a folder"):
        corrupt(grey(1, 3, 32, 32), "frost", 1)
    (tmp_path / "white").mkdir()
    Image.new("L", (70, 50), 255).save(tmp_path / "white" / "a.png")
    textures, source = frost.frost_textures()
    assert source == "white"
    assert torch.equal(textures[0], grey(3, 50, 70, level=255))
    image_weight, frost_weight, _ = CONSTANTS["frost"][32][0]
    frosted = corrupt(grey(2, 3, 32, 32), "frost", 1)
    assert (frosted == int(min(255, image_weight * 100 + frost_weight * 255))).all()
    monkeypatch.setenv("ACCLIMATE_FROST", "synthetic")
    assert frost.frost_textures()[1] == "synthetic"
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no picture")
    monkeypatch.setenv("ACCLIMATE_FROST", str(tmp_path / "bad"))
    with pytest.raises(InputError, match=r"bad/a.png cannot be used: it is not an image"):
        frost.frost_textures()


@pytest.mark.parametrize("size", [32, 64, 224])
def test_a_piece_of_frost_is_cut_out_of_the_resized_picture(size, monkeypatch):
    y, x = torch.meshgrid(torch.arange(400), torch.arange(600), indexing="ij")
    ramp = torch.stack([y // 2, x // 3, y * 0]).to(torch.uint8)
    monkeypatch.setattr(frost, "frost_textures", lambda: ((ramp,), "a test"))
    _, weight, factor = CONSTANTS["frost"][size][4]
    frosted = corrupt(grey(30, 3, size, size, level=0), "frost", 5).double() / weight
    # Steps of the ramps, which the resizing makes steeper; somewhere inside the picture.
    slope = (frosted[:, :, -1, -1] - frosted[:, :, 0, 0]).mean(0) / (size - 1)
    assert slope.tolist() == pytest.approx([1 / 2 / factor, 1 / 3 / factor, 0], abs=0.05)
    start = frosted[:, :2, 0, 0]
    room = torch.tensor([400 / 2, 600 / 3]) - size * torch.tensor([1 / 2, 1 / 3]) / factor
    assert (start <= room + 3).all()
    assert (start.amax(0) > 0.6 * room).all()


# Spatter.


def test_water_is_opencv_s():
    golden = np.load(GOLDEN / "water_48.npz")
    levels = torch.from_numpy(golden["levels"]).float()
    edges = spatter._edges(levels)
    assert np.array_equal(edges.numpy(), golden["edges"])
    distance = spatter._distance(edges) / spatter._STEP
    assert np.abs(distance.numpy() - golden["distance"]).max() < 1e-3
    # The relief's steps depend on distances being cut off to whole numbers: a few pixels differ.
    depth = spatter._equalised((spatter._sum3(distance * spatter._STEP) / (9 * 2**16)).floor())
    relief = (spatter._sum3(spatter._emboss(depth).clamp(0, 255)) / 9).round()
    assert (relief.numpy() != golden["relief"]).mean() < 0.01


def test_water_brightens_to_its_opacity_and_mud_covers():
    black = grey(4, 3, 64, 64, level=0)
    wet = corrupt(black, "spatter", 2)
    assert wet.amax((2, 3)).tolist() == [[int(0.6 * 175), int(0.6 * 238), int(0.6 * 238)]] * 4
    muddy = corrupt(grey(4, 3, 64, 64, level=200), "spatter", 5).permute(0, 2, 3, 1)
    changed = muddy[(muddy != 200).any(-1)].double()
    cover = (200 - changed) / (200 - torch.tensor([63.0, 42.0, 20.0]))
    assert cover.min() > 0.78
    assert (cover.amax(1) - cover.amin(1)).max() < 0.01


def test_no_water_where_no_drop_is():
    dry = torch.full((2, 32, 32), 0.5)
    assert not spatter._water(dry, 0.7).any()


# Layers of the published size.


def test_a_layer_fits_images_of_another_size():
    layer = torch.rand(2, 32, 40, generator=torch.Generator().manual_seed(0))
    half = layers.fit(layer, grey(2, 3, 16, 20))
    pooled = torch.nn.functional.avg_pool2d(layer, 2)
    assert torch.allclose(half, pooled, atol=1e-6)
    double = layers.fit(layer, grey(2, 3, 64, 80))
    expected = torch.nn.functional.interpolate(layer[None], (64, 80), mode="bilinear")[0]
    assert torch.allclose(double, expected, atol=1e-6)
    assert layers.published_shape(grey(1, 3, 16, 20), 0.5) == (32, 40)


@pytest.mark.parametrize("name", ["snow", "frost", "spatter"])
def test_large_and_long_images(name):
    for size in ((1024, 700), (16, 200)):
        images = grey(1, 3, *size)
        corrupted = corrupt(images, name, 3)
        assert corrupted.shape == images.shape
        assert (corrupted != images).any()
