import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, functional

from acclimate.data import decode as module
from acclimate.data.decode import decode, resize_and_crop
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (5, 7, 3), np.uint8)
GREY = RNG.integers(0, 256, (5, 7), np.uint8)


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pixels(data):
    image = decode(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def as_rgb(grey):
    return np.repeat(grey[..., None], 3, axis=2)


def over_white(colours, alpha):
    alpha = alpha[..., None] / 255
    return colours * alpha + 255 * (1 - alpha)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_rgb_is_untouched(format):
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(COLOURS), format)), COLOURS)


def test_a_path_and_its_bytes_are_the_same(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(encoded(Image.fromarray(COLOURS)))
    np.testing.assert_array_equal(np.asarray(decode(file)), COLOURS)


def test_grey_and_one_bit():
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(GREY))), as_rgb(GREY))
    bits = Image.fromarray(GREY > 127)
    assert bits.mode == "1"
    np.testing.assert_array_equal(
        pixels(encoded(bits)), as_rgb(np.where(GREY > 127, 255, 0).astype(np.uint8))
    )


def test_alpha_is_laid_over_white():
    alpha = RNG.integers(0, 256, (5, 7), np.uint8)
    rgba = Image.fromarray(np.dstack([COLOURS, alpha]))
    np.testing.assert_allclose(pixels(encoded(rgba)), over_white(COLOURS, alpha), atol=1)
    la = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])
    np.testing.assert_allclose(pixels(encoded(la)), over_white(as_rgb(GREY), alpha), atol=1)


def test_fully_transparent_pixels_are_white_whatever_colour_they_hide():
    hidden = np.dstack([COLOURS, np.zeros((5, 7), np.uint8)])
    assert (pixels(encoded(Image.fromarray(hidden))) == 255).all()


@pytest.mark.parametrize("transparency", [None, 1, b"\xff\x00\x80"])
def test_palette(transparency):
    indices = RNG.integers(0, 3, (5, 7), np.uint8)
    palette = np.array([[255, 0, 0], [0, 200, 0], [10, 20, 30]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    assert image.mode == "P"
    options = {} if transparency is None else {"transparency": transparency}
    alphas = {None: [255, 255, 255], 1: [255, 0, 255], b"\xff\x00\x80": [255, 0, 128]}
    alpha = np.array(alphas[transparency])[indices]
    expected = over_white(palette[indices], alpha)
    np.testing.assert_allclose(pixels(encoded(image, **options)), expected, atol=1)


def test_one_colour_declared_transparent():
    black_and_red = np.zeros((4, 4, 3), np.uint8)
    black_and_red[:2, :, 0] = 255
    data = encoded(Image.fromarray(black_and_red), transparency=(0, 0, 0))
    expected = black_and_red.copy()
    expected[2:] = 255
    np.testing.assert_array_equal(pixels(data), expected)


def test_cmyk():
    inks = np.zeros((2, 3, 4), np.uint8)
    inks[0, 0] = [255, 0, 0, 0]  # cyan
    inks[0, 1] = [0, 255, 255, 0]  # magenta and yellow: red
    inks[0, 2] = [0, 0, 0, 255]  # black
    image = Image.frombytes("CMYK", (3, 2), inks.tobytes())
    expected = [[[0, 255, 255], [255, 0, 0], [0, 0, 0]], [[255, 255, 255]] * 3]
    np.testing.assert_array_equal(pixels(encoded(image, "TIFF")), expected)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(format):
    values = np.array([[0, 256, 32768, 65535], [257, 257 * 100, 300, 65534]], np.uint16)
    data = encoded(Image.fromarray(values), format)
    expected = np.rint(values / 257).astype(np.uint8)
    assert expected[0].tolist() == [0, 1, 128, 255]
    np.testing.assert_array_equal(pixels(data), as_rgb(expected))


def test_16_bit_grey_big_endian():
    values = np.array([[0, 256, 32768, 65535]], ">u2")
    image = Image.frombytes("I;16B", (4, 1), values.tobytes())
    np.testing.assert_array_equal(module.upright_rgb(image), as_rgb(np.uint8([[0, 1, 128, 255]])))


def test_32_bit_grey_is_scaled_as_16_bit_and_refused_beyond():
    good = Image.fromarray(np.array([[0, 32768, 65535]], np.int32))
    assert good.mode == "I"
    np.testing.assert_array_equal(pixels(encoded(good, "TIFF")), as_rgb(np.uint8([[0, 128, 255]])))
    for value in (-1, 65536):
        with pytest.raises(InputError, match=r"0\.\.65535"):
            decode(encoded(Image.fromarray(np.array([[0, value]], np.int32)), "TIFF"))


def test_float_grey_is_scaled_from_one_and_refused_beyond():
    good = Image.fromarray(np.array([[0, 0.5, 1]], np.float32))
    np.testing.assert_array_equal(pixels(encoded(good, "TIFF")), as_rgb(np.uint8([[0, 128, 255]])))
    for value in (-0.1, 2, np.nan, np.inf):
        with pytest.raises(InputError, match=r"0\.\.1\."):
            decode(encoded(Image.fromarray(np.array([[0, value]], np.float32)), "TIFF"))


# How the stored array must be turned to be upright, by the EXIF standard (tag 0x0112).
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_exif_orientation(orientation, mode):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = COLOURS if mode == "RGB" else GREY.astype(np.uint16) * 257
    shown = COLOURS if mode == "RGB" else as_rgb(GREY)
    data = encoded(Image.fromarray(stored), exif=exif)
    np.testing.assert_array_equal(pixels(data), UPRIGHT[orientation](shown))


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (pixels(data) == [255, 0, 0]).all()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM"])
def test_truncated(format):
    data = encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)), format)
    with pytest.raises(InputError):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_not_an_image(data):
    with pytest.raises(InputError, match=r"known format|cannot be read"):
        decode(data)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        decode(tmp_path / "none.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 30_000])
def test_decompression_bomb(side):
    # A BMP header alone states the size: Pillow only warns at the first, raises at the second.
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    data = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header
    with pytest.raises(InputError, match="pixels"):
        decode(data)


def test_file_too_large_is_not_read(tmp_path):
    file = tmp_path / "large.png"
    with file.open("wb") as sparse:
        sparse.truncate(module.MAX_FILE_BYTES + 1)
    with pytest.raises(InputError, match="larger than 256 MiB"):
        decode(file)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"]),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 10**6),
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_give_an_image_or_an_input_error(format, changes, cut):
    data = bytearray(encoded(Image.fromarray(COLOURS), format))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        assert decode(bytes(data[: cut % (2 * len(data))])).mode == "RGB"
    except InputError as error:
        assert str(error).endswith(".")


@pytest.mark.parametrize("shape", [(40, 40), (41, 90), (90, 41), (33, 32), (7, 5), (32, 32)])
def test_resize_and_crop_equals_torchvision(shape):
    image = Image.fromarray(RNG.integers(0, 256, (*shape, 3), np.uint8))
    expected = functional.resize(image, [32], InterpolationMode.BILINEAR, antialias=True)
    expected = functional.center_crop(expected, [32])
    np.testing.assert_array_equal(
        np.asarray(resize_and_crop(image, Preprocessing(32))), np.asarray(expected)
    )


def test_long_and_narrow_does_not_grow_without_bound():
    with pytest.raises(InputError, match="pixels"):
        resize_and_crop(Image.new("RGB", (1, 20_000)), Preprocessing(224))


def test_photographs_of_phones_in_several_pictures():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(pixels(data), np.full((16, 16, 3), [255, 0, 0]), atol=2)
