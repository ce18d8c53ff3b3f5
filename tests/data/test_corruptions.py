import colorsys
import io
import json
import math
import runpy
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from acclimate import randomness
from acclimate.data.corruptions import CONSTANTS, CORRUPTIONS, SEVERITIES, corrupt, defocus
from acclimate.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden"
DETERMINISTIC = [
    "defocus_blur",
    "zoom_blur",
    "gaussian_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
    "saturate",
]
STOCHASTIC = [name for name in CORRUPTIONS if name not in DETERMINISTIC]
# By the reference's statistics, these do not always change an image more at a higher severity.
NOT_GROWING = ["glass_blur", "elastic_transform", "saturate", "frost", "spatter"]


@cache
def golden(size):
    with np.load(GOLDEN / f"corruptions_{size}.npz") as arrays:
        return dict(arrays)


def photographs(size=32, channels_last=False):
    images = torch.from_numpy(golden(size)["images"]).permute(0, 3, 1, 2)
    return images if channels_last else images.contiguous()


def noise_images(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def nhwc(images):
    return images.permute(0, 2, 3, 1).numpy()


# Against the published generator.


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("size", [32, 64])
def test_deterministic_corruption_is_the_reference_s(size, name, severity):
    ours = nhwc(corrupt(photographs(size), name, severity)).astype(int)
    difference = np.abs(ours - golden(size)[f"{name}_{severity}"])
    assert (difference <= 1).mean() >= 0.999
    assert difference.max() <= 3


def check_statistics(size, name, severity, seeds):
    """The change that a corruption makes, against that of the published generator."""
    change_statistics = runpy.run_path(str(GOLDEN / "change_statistics.py"))["change_statistics"]
    reference = json.loads((GOLDEN / f"corruptions_{size}.json").read_text())
    reference = reference[f"{name}_{severity}"]
    clean = golden(size)["statistics_images"]
    images = torch.from_numpy(clean).permute(0, 3, 1, 2)
    found = [
        change_statistics(clean, nhwc(corrupt(images, name, severity, seed=seed)))
        for seed in range(seeds)
    ]
    ours = {key: np.mean([f[key] for f in found], axis=0) for key in reference}
    mean = {key: np.array(value["mean"]) for key, value in reference.items()}

    for key in ("mean_abs_change", "rms_change"):
        allowed = max(0.03 * mean[key], 3 * reference[key]["seed_std"])
        assert ours[key] == pytest.approx(mean[key], abs=allowed)
    assert ours["mean_change"] == pytest.approx(mean["mean_change"], abs=0.005)
    spread = "rms_change_across_images"
    assert ours[spread] == pytest.approx(mean[spread], rel=0.15)
    assert ours["spectrum"] == pytest.approx(mean["spectrum"], abs=0.03)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_corruption_has_the_reference_s_statistics(name, severity):
    check_statistics(32, name, severity, seeds=2)


@pytest.mark.slow
@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("size", [32, 64])
def test_stochastic_corruption_has_the_reference_s_statistics_over_four_seeds(
    size, name, severity, request
):
    if (size, name, severity) == (64, "frost", 5):
        reason = "mean change 0.009 darker than four seeds of the reference; eight spread by 0.011"
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    check_statistics(size, name, severity, seeds=4)


# Against plain versions, with the constants and at the sizes that have no golden values.


@pytest.mark.parametrize(
    "height_width", [(28, 28), (43, 43), (45, 61), (68, 68), (224, 200), (333, 333)]
)
@pytest.mark.parametrize("severity", [1, 5])
def test_pixelate_and_jpeg_are_pillow_s(height_width, severity):
    images = noise_images(2, 3, *height_width)
    size = {28: 32, 43: 32, 45: 32, 68: 64, 200: 224, 333: 224}[min(height_width)]
    share, quality = (CONSTANTS[n][size][severity - 1] for n in ("pixelate", "jpeg_compression"))
    height, width = height_width
    small = int(width * share), int(height * share)
    pixelated, compressed = (
        nhwc(corrupt(images, name, severity)) for name in ("pixelate", "jpeg_compression")
    )
    for row, pixels in enumerate(nhwc(images)):
        image, file = Image.fromarray(pixels), io.BytesIO()
        box = Image.Resampling.BOX
        assert np.array_equal(pixelated[row], image.resize(small, box).resize((width, height), box))
        image.save(file, "JPEG", quality=quality)
        assert np.array_equal(compressed[row], Image.open(file))


@pytest.mark.parametrize("severity", [1, 4, 5])
@pytest.mark.parametrize("name", ["brightness", "saturate"])
def test_brightness_and_saturate_are_hsv_s(name, severity):
    images = noise_images(1, 3, 180, 1)
    images[:, :, 0], images[:, :, 1] = 0, 100  # black and grey, where the hue is not defined
    constant = CONSTANTS[name][32][severity - 1]
    ours = nhwc(corrupt(images, name, severity))[0, :, 0]
    for pixel, found in zip(nhwc(images)[0, :, 0] / 255, ours, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        if name == "brightness":
            value = min(value + constant, 1)
        else:
            saturation = min(saturation * constant[0] + constant[1], 1)
        expected = np.array(colorsys.hsv_to_rgb(hue, saturation, value)) * 255
        assert np.abs(found - np.floor(expected)).max() <= 1


@pytest.mark.parametrize("severity", SEVERITIES)
def test_defocus_blur_is_a_correlation_with_a_soft_disk(severity):
    kernel = soft_disk(*CONSTANTS["defocus_blur"][224][severity - 1])
    images = noise_images(1, 3, 224, 224)
    images[:, :, :40] = 200  # where a kernel that does not sum to 1 shows
    expected = [
        ndimage.correlate(c, kernel, mode="mirror").clip(0, 255) for c in images[0].double().numpy()
    ]
    ours = corrupt(images, "defocus_blur", severity)[0].numpy()
    difference = np.abs(ours - np.floor(np.add(expected, 1e-3)))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.02  # of rounding; a wrong sum moves a third of the levels


def soft_disk(radius, deviation):
    """The benchmark's kernel by plain loops: a disk, blurred with its array's border reflected."""
    half, window = (8, 3) if radius <= 8 else (int(radius), 5)
    side = 2 * half + 1
    disk = [
        [float((x - half) ** 2 + (y - half) ** 2 <= radius**2) for x in range(side)]
        for y in range(side)
    ]
    total = sum(map(sum, disk))
    gauss = [math.exp(-((t - window // 2) ** 2) / (2 * deviation**2)) for t in range(window)]

    def inside(place):  # ... 2 1 0 1 2 ...: the border itself is not repeated
        return abs(place) if place < side else 2 * (side - 1) - place

    kernel = np.zeros((side, side))
    for y, x, i, j in np.ndindex(side, side, window, window):
        above, left = inside(y + i - window // 2), inside(x + j - window // 2)
        kernel[y, x] += gauss[i] * gauss[j] * disk[above][left] / (sum(gauss) ** 2 * total)
    return kernel


@pytest.mark.parametrize("size", [32, 64, 224])
def test_only_disks_that_touch_their_array_s_border_brighten(size):
    white = torch.full((1, 3, size, size), 150, dtype=torch.uint8)
    for severity in SEVERITIES:
        constant = CONSTANTS["defocus_blur"][size][severity - 1]
        level = int(corrupt(white, "defocus_blur", severity)[0, 0, size // 2, size // 2])
        assert level == int(150 * soft_disk(*constant).sum() + 1e-3)
        assert level == {(8, 0.5): 151, (10, 0.5): 151}.get(constant, 150)


@pytest.mark.parametrize("severity", [1, 5])
def test_motion_blur_looks_up_the_nearest_pixel_along_a_line(severity):
    images = noise_images(3, 3, 32, 32)
    radius, deviation = CONSTANTS["motion_blur"][32][severity - 1]
    weights = np.exp(-(np.arange(2 * radius + 1.0) ** 2) / (2 * deviation**2))
    key = randomness.key(0, "motion_blur", severity, "angle")
    angles = randomness.uniform(key, torch.arange(3), 1)[:, 0].numpy() * 90 - 45
    ours = nhwc(corrupt(images, "motion_blur", severity))
    for pixels, angle, found in zip(nhwc(images), np.deg2rad(angles), ours, strict=True):
        expected = np.zeros((32, 32, 3))
        for y, x in np.ndindex(32, 32):
            for step, weight in enumerate(weights / weights.sum()):
                row = y + math.ceil(step * math.sin(angle) - 0.5)
                column = x + math.ceil(step * math.cos(angle) - 0.5)
                expected[y, x] += weight * pixels[min(max(row, 0), 31), min(column, 31)]
        assert np.abs(found - np.floor(expected + 0.5)).max() <= 1


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_of_imagenet_s_strength(severity):
    grey = torch.full((4, 3, 224, 224), 128, dtype=torch.uint8)
    fractions = {n: corrupt(grey, n, severity).double() / 255 for n in CORRUPTIONS if "noise" in n}
    deviation = CONSTANTS["gaussian_noise"][224][severity - 1]
    # Clipping at half the range takes some of the strong noise: compare the share within ±0.2.
    within = ((fractions["gaussian_noise"] - 0.5).abs() < 0.2).double().mean().item()
    assert within == pytest.approx(math.erf(0.2 / deviation / 2**0.5), abs=0.01)
    relative = CONSTANTS["speckle_noise"][224][severity - 1]
    within = ((fractions["speckle_noise"] - 0.5).abs() < 0.2).double().mean().item()
    assert within == pytest.approx(math.erf(0.4 / relative / 2**0.5), abs=0.01)
    share = CONSTANTS["impulse_noise"][224][severity - 1]
    for extreme in (0, 1):
        found = (fractions["impulse_noise"] == extreme).double().mean().item()
        assert found == pytest.approx(share / 2, rel=0.03)


def test_fog_is_a_grey_cloud_that_keeps_the_brightest_value():
    images = photographs(64)
    assert not corrupt(torch.zeros_like(images), "fog", 5).any()
    grey = torch.full_like(images, 200)
    foggy = corrupt(grey, "fog", 5)
    assert torch.equal(foggy[:, 0], foggy[:, 2])
    assert foggy.amax((1, 2, 3)).tolist() == [200] * len(images)  # where the cloud is 1
    darkest = int(200 * (200 / 255) / (200 / 255 + 2))  # where it is 0
    assert foggy.amin((1, 2, 3)).tolist() == [darkest] * len(images)


# Properties.


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_s_corruption_does_not_depend_on_its_batch(name):
    images = noise_images(200, 3, 28, 29)
    whole = corrupt(images, name, 5, seed=3, first_index=10)
    sizes = [1, 7, 64, 128]
    starts = np.cumsum([0, *sizes[:-1]])
    parts = [
        corrupt(part, name, 5, seed=3, first_index=10 + int(start))
        for part, start in zip(images.split(sizes), starts, strict=True)
    ]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_strides_do_not_matter_and_the_input_is_left_alone(name):
    images = photographs(channels_last=True)
    before = images.clone()
    corrupted = corrupt(images, name, 3)
    assert torch.equal(corrupted, corrupt(images.contiguous(), name, 3))
    assert torch.equal(images, before)
    assert corrupted.is_contiguous()
    grey = images[:, :1].expand(-1, 3, -1, -1)
    assert torch.equal(corrupt(grey, name, 3), corrupt(grey.contiguous(), name, 3))


@pytest.mark.parametrize(
    "shape", [(0, 3, 32, 32), (2, 3, 16, 16), (1, 3, 40, 97), (1, 3, 300, 256), (1, 3, 1024, 16)]
)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_any_size_gives_the_same_dtype_and_shape(name, shape):
    corrupted = corrupt(noise_images(*shape), name, 5)
    assert corrupted.dtype == torch.uint8
    assert corrupted.shape == shape


@pytest.mark.slow
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_images_of_a_thousand_pixels(name):
    images = noise_images(1, 3, 1024, 1024)
    assert corrupt(images, name, 5).shape == images.shape


@pytest.mark.parametrize("size", [28, 32, 48, 64, 96])
@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in NOT_GROWING])
def test_severities_grow_at_every_size(name, size):
    images = photographs(64)
    images = torch.nn.functional.interpolate(images.float(), (size, size), mode="area").byte()
    images = images.repeat(20, 1, 1, 1)
    change = [
        (corrupt(images, name, severity).float() - images.float()).square().mean().item()
        for severity in SEVERITIES
    ]
    # Two severities may have the same blur, at other random angles: hence the 5 %.
    assert all(after > 0.95 * before for before, after in pairwise(change))
    assert change[4] > 1.5 * change[0] > 0


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("sums", [defocus._correlate_directly, defocus._correlate_by_fft])
def test_a_disk_s_sums_are_exact(sums, severity):
    kernel, _ = defocus._integer_kernel(CONSTANTS["defocus_blur"][224][severity - 1], 1.0)
    generator = torch.Generator().manual_seed(severity)
    black_or_white = torch.randint(0, 2, (2, 3, 70, 90), generator=generator) * 255.0
    weights = kernel.expand(3, 1, -1, -1)
    expected = torch.nn.functional.conv2d(black_or_white.double(), weights, groups=3)
    assert torch.equal(sums(black_or_white, kernel), expected.float())
    assert kernel.sum() < 2**16


@pytest.mark.parametrize("name", STOCHASTIC)
def test_seed_index_and_severity_all_change_the_randomness(name):
    images = photographs()[:1].repeat(4, 1, 1, 1)
    first = corrupt(images, name, 5)
    assert len(first.flatten(1).unique(dim=0)) == 4
    assert not torch.equal(first, corrupt(images, name, 5, seed=1))
    assert torch.equal(first[2:], corrupt(images[2:], name, 5, first_index=2))


def test_the_tables_agree():
    assert set(CORRUPTIONS) == set(CONSTANTS)
    for sets in CONSTANTS.values():
        assert set(sets) == {32, 64, 224}
        assert all(len(severities) == 5 for severities in sets.values())


# Bad input.


@pytest.mark.parametrize(
    ("images", "name", "severity", "message"),
    [
        (
            noise_images(1, 3, 8, 8),
            "gausian_noise",
            1,
            r"gausian_noise.*did you mean gaussian_noise",
        ),
        (noise_images(1, 3, 8, 8), "fog", 0, r"severity 0 .*1 to 5"),
        (noise_images(1, 3, 8, 8), "fog", 6, r"severity 6 .*1 to 5"),
        (noise_images(1, 3, 8, 8), "fog", 2.5, r"severity 2.5 .*1 to 5"),
        (noise_images(1, 3, 8, 8), "fog", "3", r"severity '3' .*1 to 5"),
        (
            noise_images(1, 1, 8, 8),
            "fog",
            1,
            r"\[1, 1, 8, 8\].*expand grey images with images.expand",
        ),
        (torch.rand(1, 3, 8, 8), "fog", 1, r"float32.*uint8"),
        (np.zeros((1, 3, 8, 8), np.uint8), "fog", 1, r"ndarray.*tensor"),
        (noise_images(3, 8, 8), "fog", 1, r"\[3, 8, 8\].*\[n, 3, height, width\]"),
        (noise_images(1, 8, 8, 3), "fog", 1, r"\[1, 8, 8, 3\].*\[n, 3, height, width\]"),
        (noise_images(1, 3, 0, 8), "fog", 1, r"\[1, 3, 0, 8\]"),
    ],
)
def test_bad_input_gets_one_clear_sentence(images, name, severity, message):
    with pytest.raises(InputError, match=message):
        corrupt(images, name, severity)
