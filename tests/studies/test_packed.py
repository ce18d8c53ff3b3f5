"""Packed images: the pixels and labels of the loader."""

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from acclimate.data import load
from acclimate.errors import InputError

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "studies"))
try:
    import packed
finally:
    sys.path.pop(0)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A zip of JPEGs whose names sort by number, not by text; the 2 comes before the 10."""
    folder = tmp_path_factory.mktemp("packed")
    generator = np.random.default_rng(0)
    with zipfile.ZipFile(folder / "tiny.zip", "w") as file:
        for split, count in (("test", 3), ("train", 12)):
            for name in ("cat", "ant"):
                for number in reversed(range(count)):
                    pixels = generator.integers(0, 256, (8, 10, 3), np.uint8)
                    Image.fromarray(pixels).save(folder / "image.jpg")
                    file.write(folder / "image.jpg", f"{split}/{name}/{number}.jpg")
    return folder / "tiny.zip"


def test_what_is_packed_comes_out_as_the_loader_gives_it(archive, tmp_path):
    size = packed.pack(archive, tmp_path / "tiny.packed")
    assert size == (tmp_path / "tiny.packed").stat().st_size < archive.stat().st_size / 3
    packed.unpack(tmp_path / "tiny.packed", tmp_path / "tiny.safetensors")
    for split, count in (("train", 24), ("test", 6)):
        expected, found = load(archive, split), packed.read(tmp_path / "tiny.safetensors", split)
        assert found.images.shape == (count, 3, 8, 10)
        assert torch.equal(found.images, expected.images)
        assert found.images.stride() == expected.images.stride()
        assert torch.equal(found.labels, expected.labels)
        assert (
            (found.classes, found.name)
            == (expected.classes, expected.name)
            == (
                ("ant", "cat"),
                "tiny",
            )
        )


@pytest.mark.parametrize("content", [b"", b"no such file", None])
def test_a_damaged_file_is_refused(archive, tmp_path, content):
    path = tmp_path / "tiny.packed"
    packed.pack(archive, path)
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    with pytest.raises(InputError, match="damaged; pack it again"):
        packed.unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
