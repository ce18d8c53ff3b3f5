import errno
import hashlib
import os

import pytest
from safetensors import SafetensorError

from acclimate.errors import InputError
from acclimate.storage import atomic


def failing(error):
    def write(aside):
        aside.write_text("half")
        raise error

    return write


def test_write_makes_parents_and_leaves_one_file(tmp_path):
    path = tmp_path / "deep" / "er" / "file.txt"
    atomic.write_text(path, "Grüße τ")
    assert path.read_bytes() == "Grüße τ".encode()
    assert list(path.parent.iterdir()) == [path]


def test_write_replaces_a_whole_file(tmp_path):
    path = tmp_path / "file"
    atomic.write_text(path, "old and long")
    seen = []

    def write(aside):
        aside.write_text("new")
        seen.append(path.read_text())

    atomic.write_atomically(path, write)
    assert seen == ["old and long"] and path.read_text() == "new"


@pytest.mark.parametrize(
    "error, reason",
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), "Read-only"),
        (SafetensorError("I/O error: no space"), "no space"),
    ],
)
def test_failed_write_keeps_the_old_file(tmp_path, error, reason):
    path = tmp_path / "file"
    atomic.write_text(path, "old")
    with pytest.raises(InputError, match=f"cannot write .*file.*{reason}"):
        atomic.write_atomically(path, failing(error))
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "old"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug")])
def test_other_errors_pass_and_leave_nothing(tmp_path, error):
    with pytest.raises(type(error)):
        atomic.write_atomically(tmp_path / "file", failing(error))
    assert not list(tmp_path.iterdir())


def test_failed_rename_leaves_nothing(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        atomic.write_text(tmp_path / "taken", "text")
    assert list(tmp_path.iterdir()) == [tmp_path / "taken"]


def test_path_below_a_regular_file(tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(InputError, match="cannot write"):
        atomic.write_text(tmp_path / "file" / "below", "text")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_too_long_a_name(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        atomic.write_text(tmp_path / ("x" * 300), "text")
    assert not list(tmp_path.iterdir())


def test_sha256(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert atomic.sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
