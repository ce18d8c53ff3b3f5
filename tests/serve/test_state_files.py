"""States on disk: found again, also before they are written; what the disk refuses costs little."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest
import torch

from acclimate.adapt.state import AdapterState
from acclimate.errors import InputError
from acclimate.serve.service import resident_bytes
from acclimate.serve.state_files import WAITING, Saved, StateFiles
from acclimate.storage import sealed


def saved(value, name="a"):
    state = AdapterState({"x": torch.full((3,), float(value))}, {"method": "tent", "settings": {}})
    return Saved(state, {"stream": name, "images": value, "batches": 1, "changed": float(value)})


def value_of(found):
    return float(found[0]["x"][0])


@pytest.fixture
def files(tmp_path):
    made = StateFiles(tmp_path / "states")
    yield made
    made.close(timeout=2)


@pytest.fixture(params=[errno.ENOSPC, errno.EROFS])
def full_disk(request, monkeypatch):
    """While set, the disk has no space left, or takes nothing at all."""
    full, write = threading.Event(), sealed.save

    def refused(path, *given):
        if full.is_set():
            raise InputError(f"cannot write it: {os.strerror(request.param)}.")
        write(path, *given)

    monkeypatch.setattr(sealed, "save", refused)
    full.set()
    return full


@pytest.mark.parametrize("name", ["a", "näh/../../etc", "x" * 128, "日本 🎥", "..", "a\0b"])
def test_a_state_is_found_again_by_any_name_and_nothing_is_written_elsewhere(tmp_path, name):
    files = StateFiles(tmp_path / "states")
    files.put(name, saved(7, name))
    assert value_of(files.take(name)) == 7  # perhaps from memory
    assert files.close()
    again = StateFiles(tmp_path / "states")
    assert value_of(again.take(name)) == 7
    assert [each["stream"] for each in again.records()] == [name]
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    again.remove(name)
    assert again.take(name) is None and list(tmp_path.rglob("*.safetensors")) == []
    again.close()


def test_what_is_taken_from_memory_is_a_copy(files, full_disk):
    given = saved(1)
    files.put("a", given)
    files.take("a")[0]["x"].zero_()
    assert float(given.state.tensors["x"][0]) == 1


def test_the_newest_state_is_kept(files):
    for value in range(30):
        files.put("a", saved(value))
    assert value_of(files.take("a")) == 29
    assert files.flush(10) and value_of(files.take("a")) == 29


@pytest.mark.parametrize("damage", ["cut", "byte", "empty", "other", "text"])
def test_a_damaged_file_is_told_and_no_other(files, damage):
    for name in ("a", "b"):
        files.put(name, saved(1, name))
    assert files.flush(10)
    path = files.path("a")
    content = bytearray(path.read_bytes())
    if damage == "byte":
        content[-1] ^= 1
    changed = {
        "cut": content[: len(content) // 2],
        "byte": content,
        "empty": b"",
        "other": files.path("b").read_bytes(),
        "text": b"hello" * 100,
    }
    path.write_bytes(bytes(changed[damage]))
    with pytest.raises(InputError):
        files.take("a")
    assert value_of(files.take("b")) == 1
    names = [record and record["stream"] for record in files.records()]
    assert "b" in names and len(names) == 2


def test_on_a_full_disk_states_wait_and_are_written_later(files, full_disk):
    files.put("a", saved(1))
    assert not files.flush(0.3) and "cannot write it" in files.trouble
    assert value_of(files.take("a")) == 1
    full_disk.clear()
    end = time.monotonic() + 10
    while files.trouble and time.monotonic() < end:
        time.sleep(0.05)
    assert files.flush(5) and files.path("a").exists()


def test_on_a_full_disk_no_more_than_some_states_are_held(files, full_disk):
    for number in range(3 * WAITING):
        files.put(f"s{number}", saved(number, f"s{number}"))
    assert files.waiting <= WAITING
    assert files.lost >= {f"s{n}" for n in range(WAITING)} and files.take("s0") is None
    assert value_of(files.take(f"s{3 * WAITING - 1}")) == 3 * WAITING - 1


def test_what_cannot_be_deleted_does_not_come_back(files, monkeypatch):
    files.put("a", saved(1))
    assert files.flush(10)

    def refuse(self, missing_ok=False):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        files.remove("a")
    assert files.path("a").exists() and files.take("a") is None
    files.put("a", saved(2))
    assert files.flush(10) and value_of(files.take("a")) == 2


def test_what_a_killed_server_has_begun_to_write_is_removed(tmp_path):
    (tmp_path / ".abc.safetensors.123.partial").write_bytes(b"half")
    (tmp_path / ".tmplwdIbM").write_bytes(b"half")  # of safetensors
    StateFiles(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_reading_states_again_and_again_takes_no_memory(files):
    """A way of safetensors to read files leaves 64 bytes for each tensor: 8 MB here."""
    tensors = {f"t{number}": torch.zeros(2) for number in range(300)}
    record = {"stream": "a", "images": 1, "batches": 1, "changed": 1.0}
    state = AdapterState(tensors, {"method": "tent", "settings": {}})
    files.put("a", Saved(state, record))
    assert files.flush(10)
    for _ in range(50):
        files.take("a")
    before = resident_bytes()
    for _ in range(400):
        files.take("a")
    assert resident_bytes() - before < 4 * 2**20
