"""Damaged and hostile files: an image, or a reason in one sentence; never another error."""

import io
import struct
import tempfile
import time
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from acclimate.data import decode, folders
from acclimate.errors import InputError

FORMATS = {
    "JPEG": {},
    "PNG": {},
    "BMP": {},
    "DIB": {},
    "GIF": {},
    "WEBP": {},
    "TIFF": {},
    "TIFF lzw": {"compression": "tiff_lzw"},
    "PPM": {},
    "AVIF": {},
    "HEIF": {},
    "JPEG2000": {},
}
SECONDS = 20  # of a loaded machine; usually milliseconds
MUTATION = st.tuples(
    st.sampled_from(["set", "cut", "insert", "copy", "length"]),
    st.integers(0, 2**20),
    st.integers(0, 2**32 - 1),
)
QUICK = settings(
    max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
SLOW = settings(QUICK, max_examples=5000)


@cache
def valid(name: str) -> bytes:
    kind = name.split()[0]
    if kind not in (*decode.formats(), "DIB"):
        pytest.skip(f"{kind} cannot be read here")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **FORMATS[name])
    return file.getvalue()


def mutated(data: bytes, changes: list[tuple[str, int, int]]) -> bytes:
    content = bytearray(data)
    for what, place, value in changes:
        place %= len(content) + 1
        if what == "set":
            content[place : place + 1] = bytes([value % 256])
        elif what == "cut":
            del content[place : place + value % 64]
        elif what == "insert":
            content[place:place] = value.to_bytes(4, "big") * (1 + value % 8)
        elif what == "copy":
            content[place:place] = content[: value % 128]
        else:
            content[place : place + 4] = struct.pack(">I" if value % 2 else "<I", value)
    return bytes(content)


def check_image(name, changes):
    begun = time.monotonic()
    try:
        image = decode.decode(mutated(valid(name), changes))
        assert image.mode == "RGB" and min(image.size) > 0
    except InputError as error:
        assert str(error).startswith(("it ", "its ", "at ")) and str(error).endswith(".")
    assert time.monotonic() - begun < SECONDS


def check_archive(changes, names, method):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), valid("PNG"), method)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.zip")
        path.write_bytes(mutated(file.getvalue(), changes))
        begun = time.monotonic()
        try:
            for item in folders.look_through(path).items:
                try:
                    assert item.open().mode == "RGB"
                except InputError as error:
                    assert str(error).endswith(".")
        except InputError as error:
            assert str(path) in str(error)
        assert time.monotonic() - begun < SECONDS
        assert [each.name for each in Path(folder).iterdir()] == ["a.zip"]


def check_names(names):
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            Path(folder, name).write_bytes(valid("PNG"))
        try:
            found = folders.look_through(Path(folder))
        except InputError as error:
            assert "there is no image" in str(error)
            return
        for item in found.items:
            if not item.left_out:
                assert item.open().size == (32, 24)
        assert len(found.items) + sum(found.others.values()) == len(set(names))


IMAGES = (st.sampled_from(list(FORMATS)), st.lists(MUTATION, min_size=1, max_size=6))
MEMBERS = st.lists(
    st.one_of(
        st.sampled_from(["a.png", "b\\c.png", "../d.png", "/e.png", "f/", "g.zip", "ü.png"]),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).map(
            lambda text: f"{text}.png"
        ),
    ),
    min_size=1,
    max_size=4,
)
ARCHIVES = (
    st.lists(MUTATION, max_size=4),
    MEMBERS,
    st.sampled_from(
        [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    ),
)
NAMES = st.lists(
    st.binary(min_size=1, max_size=40)
    .map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"_"))
    .filter(lambda raw: raw not in (b".", b".."))
    .flatmap(lambda raw: st.sampled_from([raw, raw + b".png", raw + b".txt"]))
    .map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    min_size=1,
    max_size=5,
)


@pytest.mark.filterwarnings("ignore")
@QUICK
@given(*IMAGES)
def test_images(name, changes):
    check_image(name, changes)


@pytest.mark.filterwarnings("ignore")
@QUICK
@given(*ARCHIVES)
def test_archives(changes, names, method):
    check_archive(changes, names, method)


@QUICK
@given(NAMES)
def test_names(names):
    check_names(names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@SLOW
@given(*IMAGES)
def test_many_images(name, changes):
    check_image(name, changes)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@settings(SLOW, max_examples=3000)
@given(*ARCHIVES)
def test_many_archives(changes, names, method):
    check_archive(changes, names, method)


@pytest.mark.slow
@settings(SLOW, max_examples=2000)
@given(NAMES)
def test_many_names(names):
    check_names(names)
