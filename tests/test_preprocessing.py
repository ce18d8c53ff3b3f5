import pytest
import torch
import torchvision.transforms.functional as reference
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
