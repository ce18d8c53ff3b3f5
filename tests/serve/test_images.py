"""Images of requests: what is taken, and that all else is refused before it costs memory."""

import base64
import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from acclimate.data.decode import decode, resize_and_crop
from acclimate.preprocessing import Preprocessing
from acclimate.serve.images import joined, of_array, of_files, of_json, of_npy
from acclimate.serve.refused import RefusedError
from acclimate.serve.settings import ServeSettings

SIZE = Preprocessing(16)
LIMITS = ServeSettings()
DRAWN = np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16), np.uint8)


def encoded(kind, size=(40, 24), **options):
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


PNG, JPEG = encoded("PNG"), encoded("JPEG")


def bomb(width, height):
    """A PNG that says it is huge, in some dozens of bytes."""

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("file", [PNG, JPEG])
def test_files_have_the_pixels_that_the_command_line_gives_them(file):
    images = of_files([file, file], SIZE, LIMITS)
    expected = torch.tensor(resize_and_crop(decode(file), SIZE)).permute(2, 0, 1)
    assert images.dtype == torch.uint8 and torch.equal(images[0], expected)
    assert torch.equal(images[1], expected)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", ">f4"])
def test_arrays_of_the_networks_size_stay_as_they_are(dtype):
    array = DRAWN if dtype == "uint8" else (DRAWN / 255).astype(dtype)
    images = of_array(array, SIZE, LIMITS)
    assert np.array_equal(images.numpy(), array.astype(images.numpy().dtype))
    assert torch.equal(of_array(array[0], SIZE, LIMITS), images[:1])


def test_arrays_of_another_size_are_resized_as_an_adapter_does():
    array = np.random.default_rng(2).integers(0, 256, (2, 3, 20, 30), np.uint8)
    expected = SIZE.unit(torch.from_numpy(array))
    assert torch.equal(of_array(array, SIZE, LIMITS), expected)


def test_json_holds_numbers_or_files():
    assert np.array_equal(of_json(DRAWN.tolist(), SIZE, LIMITS).numpy(), DRAWN)
    floats = of_json((DRAWN / 255).tolist(), SIZE, LIMITS)
    assert floats.dtype == torch.float32 and np.allclose(floats.numpy(), DRAWN / 255)
    text = base64.b64encode(PNG).decode()
    assert torch.equal(of_json([text], SIZE, LIMITS), of_files([PNG], SIZE, LIMITS))


def test_an_array_is_read_from_the_content_of_its_file():
    file = io.BytesIO()
    np.save(file, DRAWN)
    assert np.array_equal(of_npy(file.getvalue()), DRAWN)


def pickled():
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return file.getvalue()


def header_only(shape):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no .npy"),
        (b"\x93NUMPY\x01\x00", "no .npy"),
        (pickled(), "must be of uint8"),
        (header_only((10**9, 3, 224, 224)), "longer or shorter"),
        (header_only((0, 3, 16, 16)) + b"x", "longer or shorter"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "no .npy"),
    ],
)
def test_what_is_no_plain_array_is_refused(content, told):
    with pytest.raises(RefusedError, match=told):
        of_npy(content)


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.full((1, 3, 16, 16), np.nan), "NaN"),
        (np.full((1, 3, 16, 16), np.inf, np.float32), "NaN or infinity"),
        (np.full((1, 3, 16, 16), 2.0), "must lie in 0..1"),
        (np.zeros((1, 4, 16, 16), np.uint8), r"\[batch, 3"),
        (np.zeros((16, 16), np.uint8), r"\[batch, 3"),
        (np.zeros((0, 3, 16, 16), np.uint8), "no image"),
        (np.zeros((1, 3, 0, 16), np.uint8), "at least one image"),
        (np.zeros((1, 3, 16, 16), np.int64), "not int64"),
        (np.zeros((600, 3, 16, 16), np.uint8), "600 images"),
        (np.broadcast_to(np.uint8(0), (1, 3, 10_000, 10_000)), "pixels"),
    ],
)
def test_arrays_that_are_no_images_are_refused(array, told):
    with pytest.raises(RefusedError, match=told):
        of_array(array, SIZE, LIMITS)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        "a",
        [1, "a"],
        ["a" * 100_000, *[1] * 100_000],  # as an array of text, 37 GiB
        [[1], [2, 3]],
        ["%%%"],
        [None],
        [[[[-1]]]],
        [[[[10**30]]]],
        [True],
    ],
)
def test_json_that_is_no_images_is_refused(value):
    with pytest.raises(RefusedError):
        of_json(value, SIZE, LIMITS)


@pytest.mark.parametrize(
    ("file", "status", "told"),
    [
        (b"", 422, "no JPEG or PNG"),
        (b"GIF89a" + bytes(100), 422, "no JPEG or PNG"),
        (encoded("GIF"), 422, "no JPEG or PNG"),
        (PNG[:100], 422, "cannot be used: it cannot be read"),
        (bomb(100_000, 100_000), 413, "pixels"),
        (bomb(5000, 5000), 413, "5000 x 5000 pixels"),
        (bomb(1, 20_000_000), 422, "pixels"),
    ],
)
def test_files_that_cannot_be_used_are_refused(file, status, told):
    with pytest.raises(RefusedError, match=told) as caught:
        of_files([PNG, file], SIZE, LIMITS)
    assert caught.value.status == status and "image 2" in str(caught.value)


def test_the_pixels_of_a_request_are_bounded_together():
    limits = replace(LIMITS, image_pixels=40 * 24)
    assert len(of_files([PNG] * 4, SIZE, limits)) == 4
    with pytest.raises(RefusedError, match="3,840 pixels together") as caught:
        of_files([PNG] * 5, SIZE, limits)
    assert caught.value.status == 413


def test_the_number_of_images_is_bounded():
    with pytest.raises(RefusedError, match="3 images") as caught:
        of_files([PNG] * 3, SIZE, replace(LIMITS, request_images=2))
    assert caught.value.status == 413


def test_images_of_several_requests_become_one_batch():
    whole = torch.from_numpy(DRAWN)
    assert torch.equal(joined([whole[:1], whole[1:]], SIZE), whole)
    mixed = joined([whole[:1], whole[1:].float() / 255], SIZE)
    assert torch.equal(mixed, whole.float() / 255)


CHANGES = (
    st.sampled_from([PNG, JPEG]),
    st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=6)), max_size=6),
    st.just(0) | st.integers(0, 5000),
)


def changed(file, changes, cut):
    """A file with other bytes at some places, and perhaps an end cut off."""
    content = bytearray(file)
    for at, new in changes:
        content[at : at + len(new)] = new
    return bytes(content[: cut or None])


@settings(max_examples=150, deadline=None)
@given(*CHANGES)
def test_changed_bytes_of_a_file_give_images_or_a_refusal(file, changes, cut):
    check_bytes(changed(file, changes, cut))


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(*CHANGES)
def test_10000_changed_files_give_images_or_a_refusal(file, changes, cut):
    check_bytes(changed(file, changes, cut))


def check_bytes(content):
    try:
        images = of_files([content], SIZE, LIMITS)
    except RefusedError as error:
        assert str(error).endswith(".") and "\n" not in str(error)
    else:
        assert images.shape == (1, 3, 16, 16)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_as_an_array_give_an_array_or_a_refusal(content, magic):
    try:
        of_npy(b"\x93NUMPY\x01\x00" + content if magic else content)
    except RefusedError as error:
        assert str(error)
