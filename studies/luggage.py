"""What a study on a borrowed machine takes home, as files of limited size, and brings back."""

import io
import lzma
import tarfile
import zipfile
from pathlib import Path

from acclimate.errors import InputError
from acclimate.storage.atomic import write_atomically

NAME = "state.zip"
PIECE = 15 * 2**20
"""Largest size of a file in bytes."""
KINDS = ("log", "bundles", "stages", "grid")
"""Folders of a study, the most important first."""


def leave(out: Path, results: Path, pieces: int) -> list[str]:
    """Write log, bundles, checkpoints of unfinished bundles and measurements as numbered pieces.

    Args:
        out: Folder of the study.
        results: Folder for ``state.zip.00`` and so on; older pieces are deleted.
        pieces: Largest number of pieces.

    Returns:
        The folders that do not fit, and are left out.
    """
    content, left_out = io.BytesIO(), []
    with zipfile.ZipFile(content, "w") as archive:
        for kind in (kind for kind in KINDS if (out / kind).exists()):
            packed = _packed(out, kind)
            if content.tell() + len(packed) > pieces * PIECE - 1024:  # what the zip adds at its end
                left_out.append(kind)
            else:
                archive.writestr(kind, packed)
    for old in results.glob(f"{NAME}.*"):
        old.unlink()
    state = content.getvalue()
    for number, begin in enumerate(range(0, len(state), PIECE)):
        part = state[begin : begin + PIECE]
        path = results / f"{NAME}.{number:02d}"
        write_atomically(path, lambda temporary, part=part: temporary.write_bytes(part))
    return left_out


def bring(results: Path, out: Path) -> None:
    """Join the pieces and unpack them, unless the folder has a study already, which then goes on.

    Raises:
        InputError: there is no piece, or one is missing.
    """
    if any((out / kind).exists() for kind in KINDS):
        return
    paths = sorted(results.glob(f"{NAME}.*"))
    try:
        state = io.BytesIO(b"".join(path.read_bytes() for path in paths))
        with zipfile.ZipFile(state) as archive:
            for kind in archive.namelist():
                with tarfile.open(fileobj=io.BytesIO(archive.read(kind))) as folder:
                    folder.extractall(out, filter="data")
    except (OSError, ValueError, zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError) as error:
        raise InputError(f"{results} lacks some of {NAME}.00 and so on; copy all.") from error


def _packed(out: Path, kind: str) -> bytes:
    """The files of a folder as a tar. Answers are compressed; weights cannot be."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for path in sorted((out / kind).rglob("*")):
            inside = path.relative_to(out)
            finished = kind == "stages" and (out / "bundles" / inside.parts[1]).exists()
            if path.is_file() and not finished and not path.name.startswith("."):
                archive.add(path, inside.as_posix())
    plain = content.getvalue()
    return lzma.compress(plain, preset=1) if kind == "grid" else plain  # preset 6 takes 20 s
