"""Atomic file writes: write a temporary file, fsync, rename. A file is complete or absent."""

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError  # safetensors raises this when a write fails

from acclimate.errors import InputError
from acclimate.storage.targets import cannot_write, is_straight, resolved, straight

_LONGEST_NAME = 200  # bytes; beside it a temporary file's name has a process number and a suffix


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically: a reader sees the old file or the new one, never a part.

    Where the path is a link, its target is written. Pipes, devices and ``/dev/stdout`` are written
    straight.

    ```python
    write_atomically(Path("weights.safetensors"), lambda temporary: save_file(tensors, temporary))
    ```

    Args:
        path: The file to write. Missing parent folders are created.
        write: Writes the whole content to the temporary path that it is called with.

    Raises:
        InputError: the file cannot be written (no space, no permission, not a folder).
    """
    path = Path(path)
    try:
        if is_straight(path):
            with tempfile.TemporaryDirectory() as folder, straight(path) as file:
                write(Path(folder, "content"))
                with Path(folder, "content").open("rb") as content:
                    shutil.copyfileobj(content, file)
            return
        target = resolved(path)
        temporary = beside(target, f"{os.getpid()}.partial")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise cannot_write(path, error) from error


def beside(target: Path, ending: str) -> Path:
    """A hidden path beside a target, with its name and an ending; its name is never too long."""
    name = os.fsencode(target.name)
    if len(name) > _LONGEST_NAME:
        name = hashlib.sha256(name).hexdigest().encode()
    return target.with_name(f".{os.fsdecode(name)}.{ending}")


def replace(temporary: Path, target: Path) -> None:
    """Give a complete file its final name, durably, and the permissions of the file there.

    Raises:
        OSError: the disk is full, or the target is a folder or may not be replaced.
    """
    if target.is_file():
        temporary.chmod(stat.S_IMODE(target.stat().st_mode))
    sync(temporary)
    temporary.replace(target)
    sync(target.parent)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Create a folder and lock it, so that only one process writes it at a time.

    The lock ends with the process that holds it, however that ends.

    ```python
    with only_writer(Path("results")):
        write_text(Path("results/table.csv"), text)
    ```

    Raises:
        InputError: another process is writing the folder, or it cannot be created.
    """

    def open_folder() -> int:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder, os.O_RDONLY)

    with locked(folder, open_folder):
        yield


@contextmanager
def locked(path: Path, open_it: Callable[[], int], name: Path | None = None) -> Iterator[int]:
    """Lock a file or folder for this process, or say at once that another holds the lock.

    Args:
        path: What to lock.
        open_it: Makes it, if it is missing, and returns a descriptor of it.
        name: What to call it in messages; default: the path.

    Yields:
        The descriptor, which is closed in the end.

    Raises:
        InputError: another process holds the lock, or it cannot be made.
    """
    name = name or path
    while True:
        try:
            descriptor = open_it()
        except OSError as error:
            raise cannot_write(name, error) from error
        try:
            _lock(descriptor, name)
            # Its last writer may have renamed or removed it between opening and locking.
            if _is(descriptor, path):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _lock(descriptor: int, name: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"another run is writing {name}; wait until it has ended.") from error


def _is(descriptor: int, path: Path) -> bool:
    """Whether a descriptor is that of the file which now has the path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically. File names that are no UTF-8 are written as their bytes."""
    options = {"encoding": "utf-8", "errors": "surrogateescape"}
    write_atomically(path, lambda temporary: temporary.write_text(text, **options))


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file or folder is stored on disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
