"""Atomic file writes: write a temporary file, fsync, rename. A file is complete or absent."""

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError  # safetensors raises this when a write fails

from acclimate.errors import InputError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically: a reader sees the old file or the new one, never a part.

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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: Exception) -> InputError:
    """Build the error for a path that cannot be written."""
    reason = getattr(error, "strerror", None) or str(error)
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    remedy = "free some space or choose another place" if full else "choose another place"
    return InputError(f"cannot write {path}: {reason}; {remedy}.")


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Create a folder and lock it, so that only one process writes it at a time.

    ```python
    with only_writer(Path("results")):
        write_text(Path("results/table.csv"), text)
    ```

    Raises:
        InputError: another process is writing the folder, or it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise InputError(f"another run is writing {folder}; wait until it has ended.") from error
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


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
