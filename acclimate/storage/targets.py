"""Where a path that the user names leads: through links, to a pipe, a device, or nowhere."""

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from acclimate.errors import InputError

_MOST_LINKS = 40  # as in Linux


def cannot_write(path: Path, error: Exception) -> InputError:
    """Build the error for a path that cannot be written."""
    reason = getattr(error, "strerror", None) or str(error)
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    remedy = "free some space or choose another place" if full else "choose another place"
    return InputError(f"cannot write {path}: {reason}; {remedy}.")


def resolved(path: Path) -> Path:
    """The path with all links followed, so that a link's target is written and not the link.

    Raises:
        OSError: the links lead in a circle.
    """
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return target


def open_descriptor(path: Path) -> int | None:
    """The descriptor of this process that a path names, such as 1 for ``/dev/stdout``."""
    own = (f"/proc/{os.getpid()}/fd", "/dev/fd")
    for _ in range(_MOST_LINKS):
        if len(path.name) < 10 and path.name.isdecimal() and os.path.realpath(path.parent) in own:
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def is_straight(path: Path) -> bool:
    """Whether a path is written straight, and not replaced: a pipe, a device, a descriptor.

    ```python
    is_straight(Path("/dev/null"))  # True
    ```
    """
    if open_descriptor(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextmanager
def straight(path: Path) -> Iterator[BinaryIO]:
    """Open a pipe, a device or a descriptor for writing. A pipe waits for its reader.

    Raises:
        OSError: it cannot be opened, or is a disk or a socket.
    """
    number = open_descriptor(path)
    if number is None and stat.S_ISBLK(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is a disk, whose content would be destroyed")
    # A descriptor is not opened again: that would begin a redirected file anew.
    with path.open("wb") if number is None else os.fdopen(os.dup(number), "wb") as file:
        yield file


def check_writable(path: Path) -> None:
    """Raise an error, before any work, if a file or folder cannot be written or made later.

    A file of one byte is written and removed again, because permissions alone say little: a folder
    may be mounted read-only, or its disk or quota be full. For a file that does not exist yet, this
    is done in the nearest folder that does.

    ```python
    check_writable(Path("results/predictions.csv"))
    ```

    Raises:
        InputError: it cannot be written.
    """
    try:
        if is_straight(path):
            _check_straight(path)
            return
        target = resolved(path)
        if not target.is_dir() and target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        _try(target)
    except OSError as error:
        raise cannot_write(path, error) from error


def _check_straight(path: Path) -> None:
    number = open_descriptor(path)
    if number is not None:
        if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "it is open for reading only")
        return
    mode = path.stat().st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        raise OSError(errno.EINVAL, "it is a disk or a socket")
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _try(target: Path) -> None:
    """Write a file of one byte in a folder, or where the missing target is to be; remove it."""
    folder = target
    while not folder.is_dir():
        if folder != target and folder.exists():
            raise NotADirectoryError(errno.ENOTDIR, f"{folder} is no folder")
        folder = folder.parent
    for name in target.relative_to(folder).parts:
        try:
            os.lstat(folder / name)  # tells a name that is too long
        except FileNotFoundError:
            continue
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=".partial", dir=folder)
    try:
        os.write(descriptor, b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        Path(name).unlink()
