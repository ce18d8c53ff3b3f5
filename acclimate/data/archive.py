"""What lies in a zip, whatever program wrote it. Nothing is unpacked to disk."""

import stat
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path

from PIL import Image

from acclimate.data import decode
from acclimate.data.cache import Item
from acclimate.data.survey import Items, Survey, is_hidden_folder, natural, refused, why_not
from acclimate.errors import InputError

_MAX_TOTAL_BYTES = 2**40
_UTF_8 = 0x800
_ENCRYPTED = 0x1
_UNIX = 3
_SMALL_READ = 4096


def of_zip(path: Path) -> Survey:
    """Look through a zip.

    Backslashes in names are separators if the zip was made on Windows. A name that is not marked
    as UTF-8 is read as UTF-8 all the same where it can be, and otherwise in the old code page 437.

    Raises:
        InputError: it is no zip, or would be too large if unpacked.
    """
    try:
        archive = zipfile.ZipFile(path)
        infos = archive.infolist()
    except decode.BROKEN as error:
        raise InputError(f"{path} is not a readable zip ({error}): make it again.") from error
    others: Counter[str] = Counter()
    left_out: dict[str, str] = {}
    members: dict[str, zipfile.ZipInfo] = {}
    names = [_name(info) for info in infos]
    backslashes = not any("/" in name for name in names)
    for name, info in zip(names, infos):
        if backslashes or info.create_system != _UNIX:
            name = name.replace("\\", "/")
        reason = None if name.endswith("/") else _why_not(name, info, others)
        if reason is None:
            continue
        if name in members:
            others["earlier members of the same name"] += 1
            left_out.pop(name, None)
        members[name] = info
        if reason:
            left_out[name] = reason
    total = sum(info.file_size for name, info in members.items() if name not in left_out)
    if total > _MAX_TOTAL_BYTES:
        raise InputError(f"the images in {path} would unpack to {total / 2**40:.1f} TiB: unzip it.")

    def stamp(name: str) -> str:
        return f"{members[name].file_size} {members[name].CRC}"

    def make(name: str) -> Item:
        if name in left_out:
            return refused(name, left_out[name])
        return Item(name, partial(stamp, name), partial(_open, archive, members[name]))

    ordered = sorted(members, key=lambda name: [natural(part) for part in name.split("/")])
    return Survey(Items(ordered, make), left_out, others, stamp)


def _name(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & _UTF_8:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def _why_not(name: str, info: zipfile.ZipInfo, others: Counter[str]) -> str | None:
    *folders, last = name.split("/")
    if any(map(is_hidden_folder, folders)):
        others["files in hidden folders"] += 1
        return None
    reason = why_not(last, others)
    if reason == "" and info.flag_bits & _ENCRYPTED:
        return "it is encrypted; unpack the zip with its password."
    if reason == "" and stat.S_ISLNK(info.external_attr >> 16):
        return "it is a link; unpack the zip."
    return reason


def _open(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Image.Image:
    decode.check_file_size(info.file_size)
    try:
        data = _read(archive, info)
    except decode.BROKEN as error:
        raise decode.damaged(error) from error
    return decode.decode(data)


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member's content: at most as much as its size says, whatever it would unpack to."""
    bounded = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    # Other methods unpack all that is read of the zip at once, a few kilobytes to many megabytes.
    step = info.file_size + 1 if bounded else _SMALL_READ
    with archive.open(info) as file:
        return b"".join(iter(partial(file.read, step), b""))
