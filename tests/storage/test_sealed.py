import errno
import os
import random

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from acclimate.errors import InputError
from acclimate.storage import sealed

TENSORS = {
    "weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "half": torch.arange(6).bfloat16(),
    "steps": torch.tensor(7),
    "mask": torch.tensor([True, False]),
    "empty": torch.empty(0, 3),
    "double": torch.tensor([1 / 3], dtype=torch.float64),
}
RECORD = {"epoch": 3, "note": "τ = 0.01", "history": [{"loss": 1 / 3}], "none": None}


def assert_same(found):
    tensors, record = found
    assert record == RECORD and tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor)


@pytest.fixture
def path(tmp_path):
    sealed.save(tmp_path / "file", TENSORS, RECORD)
    return tmp_path / "file"


def test_paths_that_are_no_utf8(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.safetensors")
    sealed.save(path, {"a": torch.ones(2)}, {"b": 1})
    tensors, record = sealed.load(path)
    assert torch.equal(tensors["a"], torch.ones(2)) and record == {"b": 1}


def test_round_trip(path):
    assert_same(sealed.load(path))
    assert list(path.parent.iterdir()) == [path]


def test_round_trip_of_shared_strided_and_trainable_tensors(tmp_path):
    base = torch.arange(24.0).view(2, 3, 2, 2)
    tensors = {
        "channels_last": base.contiguous(memory_format=torch.channels_last),
        "transposed": base.transpose(0, 1),
        "part": base[1],
        "same": base,
        "again": base,
        "parameter": torch.nn.Parameter(base),
    }
    sealed.save(tmp_path / "file", tensors, {})
    loaded, record = sealed.load(tmp_path / "file")
    assert record == {} and loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_loaded_tensors_do_not_follow_the_file(path):
    tensors, _ = sealed.load(path)
    size = path.stat().st_size
    path.write_bytes(bytes(size))
    assert torch.equal(tensors["weight"], TENSORS["weight"])


def test_every_changed_byte_is_refused(path):
    content, choice = path.read_bytes(), random.Random(0)
    places = [*range(9), *(choice.randrange(len(content)) for _ in range(250))]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= choice.randrange(1, 256)
        path.write_bytes(changed)
        with pytest.raises(InputError):
            sealed.load(path)


def test_every_truncation_is_refused(path):
    content = path.read_bytes()
    for length in random.Random(1).sample(range(len(content)), 200):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="damaged"):
            sealed.load(path)


def test_appended_bytes_are_refused(path):
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match="damaged"):
        sealed.load(path)


def test_what_is_no_sealed_file(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        sealed.load(tmp_path / "missing")
    with pytest.raises(InputError, match="not a file"):
        sealed.load(tmp_path)
    save_file(TENSORS, tmp_path / "plain")
    with pytest.raises(InputError, match="damaged"):
        sealed.load(tmp_path / "plain")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="damaged"):
        sealed.load(tmp_path / "text")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), SafetensorError("no space")]
)
def test_no_space_keeps_the_last_file(path, monkeypatch, error):
    def full(tensors, aside, metadata):
        aside.write_bytes(b"half")
        raise error

    monkeypatch.setattr(sealed, "save_file", full)
    with pytest.raises(InputError, match="cannot write"):
        sealed.save(path, {"other": torch.zeros(2)}, {})
    assert list(path.parent.iterdir()) == [path]
    assert_same(sealed.load(path))


def test_path_below_a_regular_file(tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(InputError, match="cannot write"):
        sealed.save(tmp_path / "file" / "below", TENSORS, RECORD)


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([1.0, 2.0])},  # a value
        {"a": torch.tensor([1.0, 0.0]).int()},  # a type
        {"a": torch.tensor([[1.0, 0.0]])},  # a shape
        {"b": torch.tensor([1.0, 0.0])},  # a name
        {"a": torch.tensor([1.0, -0.0])},  # a bit
    ],
)
def test_digest_sees_each_difference(other):
    tensors = {"a": torch.tensor([1.0, 0.0])}
    assert sealed.digest(tensors, "") == sealed.digest({"a": tensors["a"].clone()}, "")
    assert sealed.digest(tensors, "") != sealed.digest(other, "")
    assert sealed.digest(tensors, "") != sealed.digest(tensors, "text")


def test_versions_are_those_of_the_module():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    state = sealed.with_versions({"1.weight": torch.ones(4)}, module)
    assert list(state) == ["1.weight"]
    assert state._metadata == module.state_dict()._metadata
    assert state._metadata["1"]["version"] == 2
