import os
import socket
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acclimate.data import decode, folders, load, load_images, survey
from acclimate.errors import InputError


def picture(path, colour="red", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path, **options)


def png(tmp_path):
    picture(tmp_path / "source.png")
    return (tmp_path / "source.png").read_bytes()


def look(path):
    found = folders.look_through(path)
    return list(found.items.paths), dict(found.left_out), dict(found.others)


def test_every_file_is_answered_or_named_or_counted(tmp_path):
    root = tmp_path / "in"
    for name in ("2.png", "10.JPG", "sub/a.jpeg", ".hidden.png"):
        picture(root / name)
    for name in ("x.nef", "y.svg", "z.pdf", "no-suffix", "more.zip", "all.tar.gz"):
        (root / name).write_bytes(b"content")
    for name in ("notes.txt", "a.JSON", "LICENSE", ".DS_Store", "._2.png", "Thumbs.db", ".rc"):
        (root / name).write_bytes(b"content")
    for name in (".git", "__MACOSX"):
        picture(root / name / "a.png")
    (root / "gone.jpg").symlink_to("nowhere.jpg")
    (root / "round.jpg").symlink_to("round.jpg")
    (root / "again").symlink_to("sub")
    os.mkfifo(root / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(root / "s.png"))
    paths, left_out, others = look(root)
    assert [path for path in paths if path not in left_out] == [
        "2.png",
        "10.JPG",
        "again/a.jpeg",
    ]
    assert left_out == {
        ".hidden.png": "it is hidden, since its name begins with a dot.",
        "all.tar.gz": "it is an archive; unpack it.",
        "gone.jpg": "it is a link that leads nowhere.",
        "more.zip": "it is an archive; unpack it.",
        "no-suffix": "its name has no suffix; name it as an image, such as .jpg, if it is one.",
        "pipe.jpg": "it is no file, but a pipe, a socket or a device.",
        "round.jpg": "it is a link that leads nowhere.",
        "s.png": "it is no file, but a pipe, a socket or a device.",
        "sub": "it leads to a folder that is looked at already.",
        "x.nef": "files that end in .nef are not read; convert it to JPEG or PNG.",
        "y.svg": "files that end in .svg are not read; convert it to JPEG or PNG.",
        "z.pdf": "files that end in .pdf are not read; convert it to JPEG or PNG.",
    }
    assert others == {
        ".txt": 1,
        ".json": 1,
        "texts": 1,
        "files of the system": 3,
        "hidden files": 1,
        "hidden folders": 2,
    }
    images = load_images(root)
    assert len(images.images) == 3
    assert dict(images.skipped) == left_out


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    picture(tmp_path / "a.png")
    picture(tmp_path / "locked" / "b.png")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(survey.os, "scandir", refuse)
    _, left_out, _ = look(tmp_path)
    assert left_out == {"locked": "this folder cannot be read (Permission denied)."}
    with pytest.raises(InputError, match=r"cannot be read .Permission denied"):
        folders.look_through(tmp_path / "locked")


def test_what_lies_beside_the_splits_changes_no_structure(tmp_path):
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            picture(tmp_path / "set" / split / name / "1.png")
    (tmp_path / "readme.pdf").write_bytes(b"")
    (tmp_path / "set" / "train" / "only.svg").write_bytes(b"")
    (tmp_path / "set" / "test" / "wasp").mkdir()
    (tmp_path / "set" / "test" / "wasp" / "x.psd").write_bytes(b"")
    data = load(tmp_path, "test")
    assert data.classes == ("ant", "bee")
    assert [path for path, _ in data.skipped] == ["set/test/wasp/x.psd"]


def test_names_of_any_bytes(tmp_path):
    names = [b"caf\xe9.png", b"new\nline.png", b'q",.png', b"\xff\xfe/deep.png"]
    for name in names:
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        picture(path)
    images = load_images(tmp_path)
    assert sorted(os.fsencode(path) for path in images.paths) == sorted(names)
    assert len(images.images) == 4 and not images.skipped


def written(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zips_of_all_programs(tmp_path):
    data = png(tmp_path)
    members = [
        ("set\\dark\\1.png", data),
        ("set\\dark\\", b""),
        ("set\\__MACOSX\\1.png", data),
        ("set\\._2.png", data),
        ("set\\inner.zip", b"PK"),
        ("set\\2.png", data),
        ("set\\2.png", data),
    ]
    paths, left_out, others = look(written(tmp_path / "w.zip", members))
    assert paths == ["set/2.png", "set/dark/1.png", "set/inner.zip"]
    assert left_out == {"set/inner.zip": "it is an archive; unpack it."}
    assert others == {
        "files in hidden folders": 1,
        "files of the system": 1,
        "earlier members of the same name": 1,
    }
    classes = [(f"train\\{name}\\1.png", data) for name in ("ant", "bee")]
    assert load(written(tmp_path / "c.zip", classes), "train").classes == ("ant", "bee")


def test_a_backslash_in_a_unix_name_stays(tmp_path):
    data = png(tmp_path)
    found = look(written(tmp_path / "u.zip", [("a/1.png", data), ("a/b\\c.png", data)]))
    assert found[0] == ["a/1.png", "a/b\\c.png"]


def test_names_of_zips_without_a_mark_and_outside(tmp_path):
    data = png(tmp_path)
    names = ["Grüße.png", "../up.png", "/root/abs.png"]
    path = written(tmp_path / "n.zip", [(name, data) for name in names])
    content = bytearray(path.read_bytes())
    for sign, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # take away the mark for UTF-8
        at = content.find(sign)
        content[at + place + 1] &= ~0x08
    path.write_bytes(content)
    assert sorted(look(path)[0]) == sorted(names)
    assert len(load_images(path).images) == 3


def test_encrypted_members_and_links(tmp_path):
    path = written(tmp_path / "e.zip", [("a.png", png(tmp_path))])
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert look(path)[1] == {"a.png": "it is encrypted; unpack the zip with its password."}
    link = zipfile.ZipInfo("l.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = written(tmp_path / "l.zip", [(link, b"elsewhere.png")])
    assert look(path)[1] == {"l.png": "it is a link; unpack the zip."}


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_unpacks_to_more_than_it_says(tmp_path, method):
    path = written(tmp_path / "b.zip", [("a.png", bytes(2**24))], compression=method)
    content = bytearray(path.read_bytes())
    for sign, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.find(sign) + place
        content[at : at + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"none of the 1 images can be used; a.png: it "):
        load_images(path)


FORMATS = {"a.heic": "HEIF", "a.avif": "AVIF", "a.jp2": "JPEG2000", "b.jpg": "HEIF"}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_that_need_a_library(tmp_path, name, monkeypatch):
    """By content: telephones name HEIC files .jpg when they are sent."""
    if FORMATS[name] not in decode.formats():
        pytest.skip(f"{FORMATS[name]} cannot be read here")
    gradient = np.linspace(0, 255, 64, dtype=np.uint8)
    values = np.stack([np.tile(gradient, (48, 1))] * 3, axis=-1)
    Image.fromarray(values).save(tmp_path / name, FORMATS[name])
    found = np.asarray(decode.decode(tmp_path / name)).astype(int)
    assert found.shape == values.shape and abs(found - values).mean() < 6
    monkeypatch.setattr(decode, "formats", lambda: ("JPEG", "PNG"))
    with pytest.raises(InputError, match=f"it is in the format {FORMATS[name]}; .* to read it"):
        decode.decode(tmp_path / name)


def test_imagenet_gets_a_hint(tmp_path):
    for name in ("n01440764", "n01443537"):
        picture(tmp_path / "flat" / name / "1.JPEG")
        picture(tmp_path / "part" / "val" / name / "1.JPEG")
    picture(tmp_path / "part" / "train" / "n01440764" / "1.JPEG")
    picture(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")
    for folder in ("flat", "part"):
        with pytest.raises(InputError, match=f"--data imagenet --root .*{folder}[.]$"):
            load(tmp_path / folder, "test")
        found = load("imagenet", "test", root=tmp_path / folder, size=8)
        assert sorted(found.labels.tolist()) == [0, 1]
    with pytest.raises(InputError, match="sort them into class folders"):
        load(tmp_path / "val", "test")
