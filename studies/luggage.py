"""What a study on a borrowed machine takes home, as files of limited size, and brings back."""

import io
import zipfile
from pathlib import Path

from acclimate.errors import InputError
from acclimate.storage.atomic import write_atomically

NAME = "state.zip"
PIECE = 15 * 2**20
"""Largest size of a file in bytes."""
KINDS = ("bundles", "stages", "grid")
"""Folders of a study, the most important first."""


def leave(out: Path, results: Path, pieces: int) -> list[str]:
    """Write bundles, checkpoints of unfinished bundles, and measurements as numbered pieces.

    Args:
        out: Folder of the study.
        results: Folder for ``state.zip.00`` and so on; older pieces are deleted.
        pieces: Largest number of pieces.

    Returns:
        The folders that do not fit, and are left out.
    """
    packed, left_out = b"", []
    taken: list[str] = []
    for kind in (kind for kind in KINDS if (out / kind).exists()):
        larger = _zip(out, (*taken, kind))
        if len(larger) > pieces * PIECE:
            left_out.append(kind)
        else:
            packed, taken = larger, [*taken, kind]
    for old in results.glob(f"{NAME}.*"):
        old.unlink()
    for number in range(-(-len(packed) // PIECE)):
        part = packed[number * PIECE : (number + 1) * PIECE]
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
        content = io.BytesIO(b"".join(path.read_bytes() for path in paths))
        with zipfile.ZipFile(content) as archive:
            archive.extractall(out)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{results} lacks some of {NAME}.00 and so on; copy all.") from error


def _zip(out: Path, kinds: tuple[str, ...]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(path for kind in kinds for path in (out / kind).rglob("*")):
            inside = path.relative_to(out)
            finished = inside.parts[0] == "stages" and (out / "bundles" / inside.parts[1]).exists()
            if path.is_file() and not finished and not path.name.startswith("."):
                archive.write(path, inside.as_posix())
    return content.getvalue()
