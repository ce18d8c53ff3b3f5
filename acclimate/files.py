"""Files that are either whole or absent: write aside, fsync, rename."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError  # its own name for a failed write

from acclimate.errors import InputError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it.

    Args:
        path: The file to end up with; missing parent folders are made.
        write: Called with a path beside ``path``; writes the whole content there.

    Raises:
        InputError: the file cannot be written (no space, no permission, not a folder).
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(aside)
            sync(aside)
            aside.replace(path)
            sync(path.parent)
        finally:
            aside.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: Exception) -> InputError:
    """The error for a place that cannot be written to."""
    reason = getattr(error, "strerror", None) or str(error)
    return InputError(f"cannot write {path}: {reason}; free some space or choose another place.")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomically(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
