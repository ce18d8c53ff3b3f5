import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from acclimate.errors import InputError
from acclimate.storage import atomic, targets

NULL = Path("/dev/null")


def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("old")
    (tmp_path / "link").symlink_to("real/file")
    (tmp_path / "over").symlink_to("link")
    atomic.write_text(tmp_path / "over", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "over").is_symlink()
    assert (tmp_path / "real" / "file").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "over", "real"]


def test_a_link_that_leads_nowhere_yet_is_followed(tmp_path):
    (tmp_path / "link").symlink_to("later/file")
    targets.check_writable(tmp_path / "link")
    atomic.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "later" / "file").read_text() == "new"


def test_links_in_a_circle_are_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for attempt in (targets.check_writable, lambda path: atomic.write_text(path, "x")):
        with pytest.raises(InputError, match="cannot write"):
            attempt(tmp_path / "a")
    assert (tmp_path / "a").is_symlink()


def test_a_pipe_is_written_straight(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    targets.check_writable(pipe)
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    atomic.write_text(pipe, "answers")
    reader.join(10)
    assert got == ["answers"] and stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


def test_devices_are_written_straight():
    before = NULL.stat().st_rdev
    targets.check_writable(NULL)
    atomic.write_text(NULL, "gone")
    assert NULL.stat().st_rdev == before
    assert stat.S_ISCHR(NULL.stat().st_mode)
    with pytest.raises(InputError, match="No space left"):
        atomic.write_text(Path("/dev/full"), "x")


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_keeps_what_is_in_it(name, tmp_path):
    code = (
        "import pathlib; from acclimate.storage import atomic, targets\n"
        f"path = pathlib.Path({name!r}); targets.check_writable(path)\n"
        "atomic.write_text(path, 'second')"
    )
    with (tmp_path / "out").open("w") as out:
        out.write("first ")
        out.flush()
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "first second"
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert piped.stdout == b"second"


def test_permissions_of_the_old_file_are_kept(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o600)
    atomic.write_text(tmp_path / "file", "new")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_a_name_as_long_as_a_file_system_takes(tmp_path):
    path = tmp_path / ("x" * 255)
    targets.check_writable(path)
    atomic.write_text(path, "text")
    assert path.read_text() == "text"


def test_what_cannot_be_written_is_noticed_before(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("here")
    for bad in ("x" * 256, "file/below", f"new/{'x' * 256}/y"):
        with pytest.raises(InputError, match="cannot write"):
            targets.check_writable(tmp_path / bad)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    targets.check_writable(tmp_path / "new" / "er" / "file")
    targets.check_writable(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "here"


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EROFS", "EACCES"])
def test_a_folder_that_takes_no_files_is_noticed_before(tmp_path, monkeypatch, error):
    number = getattr(targets.errno, error)

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(targets.os, "write", refuse)
    with pytest.raises(InputError, match="cannot write"):
        targets.check_writable(tmp_path / "file")
    assert not list(tmp_path.iterdir())


HOLD = """
import sys, time, pathlib
from acclimate.storage.atomic import only_writer
with only_writer(pathlib.Path(sys.argv[1])):
    print("held", flush=True); time.sleep(60)
"""


def test_one_writer_and_no_stale_lock(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out")], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with (
            pytest.raises(InputError, match="another run is writing"),
            atomic.only_writer(tmp_path / "out"),
        ):
            pass
        other.kill()
        other.wait()
    with atomic.only_writer(tmp_path / "out"):
        pass


def test_a_folder_that_was_removed_while_waiting_is_locked_anew(tmp_path):
    """Its last writer removes it between the opening and the locking."""
    folder, opened = tmp_path / "out", []

    def open_folder():
        folder.mkdir(exist_ok=True)
        opened.append(os.open(folder, os.O_RDONLY))
        if len(opened) == 1:
            folder.rmdir()
        return opened[-1]

    with atomic.locked(folder, open_folder):
        assert len(opened) == 2 and folder.is_dir()


def test_names_that_are_no_utf_8_are_written_as_their_bytes(tmp_path):
    atomic.write_text(tmp_path / "list", os.fsdecode(b"caf\xe9\n"))
    assert (tmp_path / "list").read_bytes() == b"caf\xe9\n"
