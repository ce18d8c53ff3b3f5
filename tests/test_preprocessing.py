import pytest
import torch
import torchvision.transforms.functional as reference
from photographs import photographs
from PIL import Image

from acclimate.errors import InputError
from acclimate.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, check_images

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (4, 3, 12, 12), dtype=torch.uint8, generator=GENERATOR)


def test_bytes_and_floats_mean_the_same():
    found = Preprocessing(12)(IMAGES)
    expected = reference.normalize(IMAGES / 255, IMAGENET_MEAN, IMAGENET_STD)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(Preprocessing(12)(IMAGES / 255), expected)
    torch.testing.assert_close(Preprocessing(12)(IMAGES.double() / 255), expected)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_given_images_stay_as_they_are():
    images = IMAGES / 255
    before = images.clone()
    Preprocessing(12)(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("height, width", [(12, 20), (20, 12), (31, 17), (8, 9), (5, 5), (64, 64)])
def test_other_sizes_keep_the_middle_square(height, width):
    image = torch.rand(3, height, width, generator=GENERATOR)
    found = Preprocessing(12).unit(image[None])
    resized = reference.resize(image, [12], antialias=True)
    expected = reference.center_crop(resized, [12])
    assert found.shape == (1, 3, 12, 12)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-5)


def test_shrinking_equals_pillows():
    pixels = torch.randint(0, 256, (3, 48, 48), dtype=torch.uint8, generator=GENERATOR)
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    expected = reference.pil_to_tensor(image.resize((16, 16), Image.Resampling.BILINEAR))
    found = Preprocessing(16).unit(pixels[None])[0]
    torch.testing.assert_close(found * 255, expected.float(), rtol=0, atol=1)


def test_unit_keeps_0_to_1():
    extremes = torch.randint(0, 2, (2, 3, 29, 40), generator=GENERATOR).float()
    found = Preprocessing(13).unit(extremes)
    assert found.min() >= 0 and found.max() <= 1 + 1e-6


def test_fit_makes_zero_mean_and_unit_deviation():
    images = torch.randint(20, 200, (50, 3, 6, 6), dtype=torch.uint8, generator=GENERATOR)
    images[:, 1] //= 2
    fitted = Preprocessing.fit(images)
    assert fitted.size == 6
    normalised = fitted(images)
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(normalised.std((0, 2, 3)), torch.ones(3), rtol=1e-4, atol=0)


def test_fit_survives_images_of_one_colour():
    fitted = Preprocessing.fit(torch.full((3, 3, 4, 4), 128, dtype=torch.uint8))
    assert Preprocessing.__call__(fitted, IMAGES).isfinite().all()


@pytest.mark.parametrize("count", [10, 15, 19, 20, 99])
def test_fit_looks_at_all_of_a_sorted_set(count):
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    fitted = Preprocessing.fit(images, limit=10)
    # Evenly spaced: the mean of a ramp is its middle, to one step.
    assert fitted.mean[0] * 255 == pytest.approx((count - 1) / 2, abs=max(1, count / 10))


@pytest.mark.parametrize(
    "images, message",
    [
        ([[1, 2]], "not list"),
        (None, "not NoneType"),
        (IMAGES.numpy(), "not ndarray"),
        (IMAGES[0], r"not \[3, 12, 12\]"),
        (IMAGES[:, :1], r"not \[4, 1, 12, 12\]"),
        (IMAGES[:0], "at least one"),
        (IMAGES[..., :0], "at least one"),
        (IMAGES.permute(0, 2, 3, 1), "batch, 3"),
        (IMAGES.int(), "int32"),
        (IMAGES > 100, "bool"),
        (IMAGES.float(), "0..1"),
        (IMAGES.float() / 255 - 0.5, "0..1"),
        ((IMAGES / 255).index_fill(0, torch.tensor([2]), float("nan")), "NaN"),
        ((IMAGES / 255).index_fill(0, torch.tensor([2]), float("inf")), "NaN or infinity"),
        ((IMAGES / 255).index_fill(0, torch.tensor([2]), -float("inf")), "NaN or infinity"),
    ],
)
def test_what_is_no_batch_of_images(images, message):
    with pytest.raises(InputError, match=message):
        check_images(images)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_images_of_any_float_type_pass(dtype):
    check_images((IMAGES / 255).to(dtype))
    check_images(IMAGES)


KINDS = {
    "cropped": Preprocessing(24, resize=28, interpolation="bicubic"),
    "squashed": Preprocessing(24, resize=(28, 28), mode="squash"),
    "bordered": Preprocessing(24, mode="border", interpolation="bicubic"),
    "smaller than the crop": Preprocessing(24, resize=21),
    "not resized": Preprocessing(24, mode="none"),
    "nearest": Preprocessing(24, resize=28, interpolation="nearest"),
    "not square": Preprocessing((20, 24), resize=(22, 27)),
    "rounded down": Preprocessing(24, resize=29, rounding="down"),
    "grey": Preprocessing((24, 20), (0.5,), (0.2,), resize=(30, 25)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_tensors_differ_from_pillow_by_rounding(kind, dtype):
    preprocessing = KINDS[kind]
    for image in photographs():
        image = image.convert("L" if preprocessing.channels == 1 else "RGB")
        pixels = reference.pil_to_tensor(image)[None]
        if dtype == torch.float32:
            pixels = pixels / 255
        found = preprocessing.unit(pixels)[0]
        expected = reference.pil_to_tensor(preprocessing.crop(image)) / 255
        assert found.shape == expected.shape
        # Pillow rounds to 255 levels after each of the two axes.
        if kind == "nearest":  # between two pixels, either is the nearest
            assert (found == expected).float().mean() > 0.8
        else:
            torch.testing.assert_close(found, expected, rtol=0, atol=2.1 / 255)


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_the_input_size_are_taken_as_they_are(kind):
    preprocessing = KINDS[kind]
    height, width, channels = preprocessing.shape
    images = torch.randint(0, 256, (2, channels, height, width), dtype=torch.uint8)
    assert torch.equal(preprocessing.unit(images), images / 255)
    assert torch.equal(preprocessing.unit(images / 255), images / 255)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_number_of_channels_is_normalised(channels):
    images = torch.rand(2, channels, 6, 5)
    mean, std = torch.rand(channels), torch.rand(channels) + 0.1
    found = Preprocessing((6, 5), mean.tolist(), std.tolist())(images)
    expected = (images - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(found, expected)


def test_tensors_of_four_channels_are_resized():
    assert Preprocessing(8, (0,) * 4, (1,) * 4)(torch.rand(2, 4, 20, 31)).shape == (2, 4, 8, 8)


def test_photographs_have_no_four_channels():
    with pytest.raises(InputError, match="this network takes 4"):
        Preprocessing(8, (0,) * 4, (1,) * 4).crop(Image.new("RGBA", (20, 20)))


def test_tensors_are_not_resized_as_only_pillow_can():
    preprocessing = Preprocessing(12, interpolation="lanczos")
    assert preprocessing(IMAGES).shape == (4, 3, 12, 12)
    with pytest.raises(InputError, match=r"lanczos.*12 x 12"):
        preprocessing(IMAGES[..., :9])


def test_values_beyond_1_by_rounding_are_clamped():
    images = torch.rand(2, 3, 12, 12)
    images[0, 0, 0, :2] = torch.tensor([1 + 1e-6, -1e-6])
    check_images(images)
    found = Preprocessing(12).unit(images)
    assert found.min() == 0 and found.max() == 1
    assert images.max() > 1
    check_images((IMAGES / 255).bfloat16() * 1.004)
    with pytest.raises(InputError, match="must lie in"):
        check_images(images + 0.01)


def test_bicubic_overshoot_is_clamped():
    edges = torch.zeros(1, 3, 40, 40)
    edges[..., 17:] = 1
    found = Preprocessing(24, resize=28, interpolation="bicubic").unit(edges)
    assert found.min() == 0 and found.max() == 1


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels_are_checked(channels):
    images = torch.rand(2, channels, 5, 5)
    check_images(images, channels)
    with pytest.raises(InputError, match=r"\[batch, 3, height, width\].*repeat a grey"):
        check_images(images)
    with pytest.raises(InputError, match=rf"\[batch, {channels}, height, width\]"):
        check_images(IMAGES, channels)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"size": 0}, "at least 1 pixel"),
        ({"size": (3, 0)}, "at least 1 pixel"),
        ({"size": 3, "resize": 0}, "at least 1 pixel"),
        ({"size": 3, "mean": (0.1,)}, "1 means and 3"),
        ({"size": 3, "mean": (), "std": ()}, "at least 1 pixel"),
        ({"size": 2.5}, r"size of 2.5; give"),
        ({"size": (1, 2, 3)}, r"size of \(1, 2, 3\); give"),
        ({"size": 3, "resize": "4"}, "resize of '4'; give"),
        ({"size": 3, "mean": 0.5}, "mean of 0.5; give"),
        ({"size": 3, "mode": "fit"}, "'fit'; it knows crop, squash"),
        ({"size": 3, "interpolation": "cubic"}, "'cubic'; it knows nearest"),
    ],
)
def test_impossible_preprocessing(settings, message):
    with pytest.raises(InputError, match=message):
        Preprocessing(**settings)


def test_equal_pixels_whatever_the_normalisation():
    first, second = Preprocessing(24, resize=24), Preprocessing((24, 24), std=(1, 1, 1))
    assert first.pixels == second.pixels and first.size == second.size == 24
    assert all(first.pixels != other.pixels for other in KINDS.values())
    assert len({kind.pixels for kind in KINDS.values()}) == len(KINDS)


def test_in_words():
    assert str(KINDS["squashed"]).startswith("resize 28 bilinear (squash), crop 24, mean 0.485")
    assert str(KINDS["not resized"]).startswith("crop 24, mean")
    assert "crop 24 x 20, mean 0.5, std 0.2" in str(KINDS["grey"])
