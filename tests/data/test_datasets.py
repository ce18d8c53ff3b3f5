import hashlib
import os
import pickle
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100, ImageFolder

from acclimate.data import LabelledImages, fashion_mnist_mini, hold_out, load, load_images
from acclimate.errors import InputError

RNG = np.random.default_rng(1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("ACCLIMATE_CACHE", str(folder))
    return folder


def write_image(file, shape=(6, 5)):
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (*shape, 3), np.uint8)
    Image.fromarray(pixels).save(file)
    return pixels


def zip_of(folder, file, prefix=""):
    with zipfile.ZipFile(file, "w") as archive:
        for each in sorted(folder.rglob("*"), reverse=True):
            archive.write(each, prefix + each.relative_to(folder).as_posix())
    return file


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pets"
    for split, count in (("train", 11), ("val", 2)):
        for name in ("dog", "cat", "10", "9"):
            for i in range(count):
                write_image(root / split / name / f"{i}.png")
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    (root / "train" / "cat" / "._1.png").write_bytes(b"what macOS adds")
    return root


def test_folder_equals_torchvision(folder):
    for split, name in (("train", "train"), ("test", "val")):
        found = load(folder, split)
        expected = ImageFolder(
            folder / name, is_valid_file=lambda p: p.endswith(".png") and "._" not in p
        )
        assert found.classes == tuple(expected.classes) and found.name == "pets"
        assert found.skipped == ()
        assert found.labels.dtype == torch.int64 and found.images.dtype == torch.uint8

        def ordered(images, labels):  # torchvision takes 10 before 2
            return sorted((np.asarray(x).tobytes(), int(y)) for x, y in zip(images, labels))

        theirs = ordered([image for image, _ in expected], expected.targets)
        assert ordered(found.images.permute(0, 2, 3, 1).contiguous(), found.labels) == theirs


def test_layout(folder):
    images = load(folder, "train").images
    assert images.shape == (44, 3, 6, 5)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_no_warning(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(folder, "train")


@pytest.mark.parametrize("prefix", ["", "pets/", "./"])
def test_zip_equals_folder(folder, tmp_path, prefix):
    archive = zip_of(folder, tmp_path / "archive.zip", prefix)
    for split in ("train", "test"):
        ours, theirs = load(archive, split), load(folder, split)
        assert torch.equal(ours.images, theirs.images) and torch.equal(ours.labels, theirs.labels)
        assert ours.classes == theirs.classes and ours.name == "archive"
    assert torch.equal(load_images(archive).images, load_images(folder).images)


def test_folder_with_one_top_folder(folder, tmp_path):
    expected = load(folder, "train")
    shutil.move(folder, tmp_path / "outer" / "pets")
    assert torch.equal(load(tmp_path / "outer", "train").images, expected.images)


def test_an_epoch_never_decodes_again(folder, tmp_path, monkeypatch):
    archive = zip_of(folder, tmp_path / "archive.zip")
    expected = [load(data, "train").images for data in (folder, archive)]

    def forbidden(file):
        raise AssertionError("decoded again")

    monkeypatch.setattr("acclimate.data.decode.decode", forbidden)
    for data, images in zip((folder, archive), expected):
        assert torch.equal(load(data, "train").images, images)


def test_changed_content_of_equal_size_and_time_invalidates(tmp_path):
    file = tmp_path / "train" / "a" / "1.bmp"
    write_image(file)
    before, stat = load(tmp_path, "train").images.clone(), file.stat()
    expected = write_image(file)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_size == stat.st_size
    after = load(tmp_path, "train").images
    assert not torch.equal(before, after)
    np.testing.assert_array_equal(after[0].permute(1, 2, 0), expected)


def test_size(folder):
    write_image(folder / "train" / "cat" / "wide.png", (8, 20))
    with pytest.raises(InputError, match=r"differ in size .* pass --size"):
        load(folder, "train")
    assert load(folder, "train", size=4).images.shape == (45, 3, 4, 4)


def test_bad_image_among_good_ones_is_skipped(folder):
    truncated = folder / "train" / "cat" / "3.png"
    truncated.write_bytes(truncated.read_bytes()[:40])
    (folder / "train" / "dog" / "x.jpg").write_text("no image")
    write_image(folder / "train" / "stray.png")
    found = load(folder, "train")
    assert len(found.images) == len(found.labels) == 43
    assert [each.path for each in found.skipped] == [
        "train/cat/3.png",
        "train/dog/x.jpg",
        "train/stray.png",
    ]
    assert "no class folder" in found.skipped[2].reason
    assert load(folder, "train").skipped == found.skipped  # from the cache
    assert "train/stray.png" in load_images(folder, "train").paths  # which looks at no class


def test_damaged_zip_member_is_skipped(folder, tmp_path):
    archive = zip_of(folder, tmp_path / "archive.zip")
    data = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as opened:
        info = opened.getinfo("train/cat/3.png")
    data[info.header_offset + 30 + len(info.filename) + 50] ^= 1
    archive.write_bytes(data)
    (skipped,) = load(archive, "train").skipped
    assert skipped.path == "train/cat/3.png" and "CRC" in skipped.reason


def test_classes_are_those_of_train(folder):
    shutil.rmtree(folder / "val" / "cat")
    found = load(folder, "test")
    assert found.classes == ("10", "9", "cat", "dog") and sorted(set(found.labels.tolist())) == [
        0,
        1,
        3,
    ]
    shutil.rmtree(folder / "train" / "dog")
    with pytest.raises(InputError, match="'dog' in test but not in train"):
        load(folder, "test")


def test_test_split_alone(folder):
    shutil.rmtree(folder / "train")
    assert load(folder, "test").classes == ("10", "9", "cat", "dog")
    with pytest.raises(InputError, match=r"has no images in a folder train: .* it has are val"):
        load(folder, "train")


def test_unlabelled_in_natural_order(tmp_path):
    names = ["2.png", "a/b/1.png", "a2.png", "10.png", "a10.png", "1/10.png", "01.png", "1/9.png"]
    pixels = {name: write_image(tmp_path / "in" / name) for name in names}
    found = load_images(tmp_path / "in")
    assert found.paths == (
        "1/9.png",
        "1/10.png",
        "01.png",
        "2.png",
        "10.png",
        "a/b/1.png",
        "a2.png",
        "a10.png",
    )
    for image, name in zip(found.images, found.paths):
        np.testing.assert_array_equal(image.permute(1, 2, 0), pixels[name])


def test_links_are_followed_but_not_round(tmp_path):
    write_image(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "class").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "in")
    assert load_images(tmp_path / "in").paths == ("class/1.png",)


def test_npy(tmp_path):
    array = RNG.integers(0, 256, (4, 6, 6, 3), np.uint8)
    np.save(tmp_path / "images.npy", array)
    found = load_images(tmp_path / "images.npy")
    np.testing.assert_array_equal(found.images.permute(0, 2, 3, 1), array)
    assert found.paths[3] == "images.npy[3]"
    resized = load_images(tmp_path / "images.npy", size=3)
    expected = Image.fromarray(array[2]).resize((3, 3), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resized.images[2].permute(1, 2, 0), np.asarray(expected))


def test_embedded():
    images, labels, classes = fashion_mnist_mini.read("train")
    found = load("fashion-mnist-mini", "train")
    assert torch.equal(found.images, images) and torch.equal(found.labels, labels)
    assert found.images.is_contiguous(memory_format=torch.channels_last)
    assert found.classes == classes
    unlabelled = load_images("fashion-mnist-mini")
    assert len(unlabelled.images) == len(images) + len(load("fashion-mnist-mini", "test").images)
    assert torch.equal(unlabelled.images[: len(images)], images)
    assert torch.equal(load_images("fashion-mnist-mini", "train").images, images)


def fake_cifar(root, kind, monkeypatch):
    """Torchvision's layout with three images a file, and their MD5 in place of the official."""
    base = root / kind.base_folder
    base.mkdir(parents=True)

    def write(name, content):
        (base / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((base / name).read_bytes()).hexdigest()

    written = {}
    for attribute in ("train_list", "test_list"):
        listed = []
        for name, _ in getattr(kind, attribute):
            data = RNG.integers(0, 256, (3, 3072), np.uint8)
            key = "labels" if kind is CIFAR10 else "fine_labels"
            listed.append([name, write(name, {"data": data, key: [2, 0, 1]})])
            written.setdefault(attribute, []).append(data)
        monkeypatch.setattr(kind, attribute, listed)
    md5 = write(kind.meta["filename"], {kind.meta["key"]: ["x", "y", "z"]})
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5})
    return {name: np.concatenate(data) for name, data in written.items()}


@pytest.mark.parametrize("name, kind", [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
def test_cifar(name, kind, tmp_path, monkeypatch):
    written = fake_cifar(tmp_path, kind, monkeypatch)
    for split in ("train", "test"):
        found = load(name, split, root=tmp_path)
        planes = written[f"{split}_list"].reshape(-1, 3, 32, 32)  # red, green, blue planes
        np.testing.assert_array_equal(found.images, planes)
        assert found.labels.tolist() == [2, 0, 1] * (len(planes) // 3)
        assert found.classes == ("x", "y", "z") and found.name == name
    assert load(name, "test", root=tmp_path, size=16).images.shape == (3, 3, 16, 16)
    again = load(name, "test", root=tmp_path, download=True)  # it is there already
    assert torch.equal(again.images, found.images)
    both = load_images(name, root=tmp_path)
    assert len(both.images) == len(set(both.paths)) == 3 + len(written["train_list"])


class Payload:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_cifar_is_checked_before_it_is_unpickled(name, tmp_path, monkeypatch):
    fake_cifar(tmp_path, CIFAR10, monkeypatch)
    trap = tmp_path / "executed"
    (tmp_path / CIFAR10.base_folder / name).write_bytes(pickle.dumps(Payload(trap)))
    for split in ("train", "test"):
        with pytest.raises(InputError, match=r"damaged: get it with .*download=True"):
            load("cifar10", split, root=tmp_path)
    assert not trap.exists()


def _empty(path):
    path.mkdir()


def _without_classes(path):
    write_image(path / "train" / "1.png")


def _all_broken(path):
    (path / "train" / "a").mkdir(parents=True)
    (path / "train" / "a" / "1.png").write_text("broken")


@pytest.mark.parametrize(
    "name, make, message",
    [
        ("missing", None, "unknown data set, and no such folder, 'missing'"),
        ("cifar11", None, "did you mean cifar10"),
        ("no/such/folder", None, "there is no folder or zip"),
        ("", None, "there is no folder"),
        ("empty", _empty, "there is no image in"),
        ("flat", lambda p: write_image(p / "1.png"), "has no images in a folder train"),
        ("unclassed", _without_classes, "has no class folders"),
        ("broken", _all_broken, "none of the 1 images can be used"),
        ("a.png", lambda p: write_image(p), "neither a folder nor a .zip"),
        ("a.zip", lambda p: p.write_bytes(b"PK not a zip"), "is not a readable zip"),
        ("a.npy", lambda p: np.save(p, np.zeros((1, 2, 2, 3), np.uint8)), "has no labels"),
        ("cifar10", None, "needs --root"),
    ],
)
def test_bad_data(name, make, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if make is not None:
        make(tmp_path / name)
    with pytest.raises(InputError, match=message) as caught:
        load(name, "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "not a readable"),
        (b"\x93NUMPY garbage", "not a readable"),
        (np.array([{}]), "not a readable"),
        (np.zeros((2, 4, 4, 3)), "float64"),
        (np.zeros((2, 3, 4, 5), np.uint8), r"\[2, 3, 4, 5\]"),
        (np.zeros((0, 4, 4, 3), np.uint8), "not a readable|hold"),
    ],
)
def test_bad_npy(content, message, tmp_path):
    file = tmp_path / "a.npy"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        np.save(file, content, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        load_images(file)


@pytest.mark.parametrize("size", [0, -1, 10**6])
def test_bad_size(folder, size):
    with pytest.raises(InputError, match="size is"):
        load(folder, "train", size=size)


def test_bad_split(folder):
    with pytest.raises(InputError, match="unknown split 'tset': did you mean test"):
        load(folder, "tset")


@pytest.mark.parametrize("every", [2, 3, 7])
def test_held_out_images_are_the_others(every):
    images = torch.arange(7, dtype=torch.uint8)[:, None, None, None].expand(7, 3, 2, 2)
    data = LabelledImages(images, torch.arange(7), tuple("abcdefg"), "letters")
    rest, held = hold_out(data, every)
    assert held.labels.tolist() == list(range(every - 1, 7, every))
    assert sorted(held.labels.tolist() + rest.labels.tolist()) == list(range(7))
    for part in (rest, held):
        assert torch.equal(part.images[:, 0, 0, 0].long(), part.labels)
        assert part.classes == data.classes


@pytest.mark.parametrize("every", [-1, 0, 1, 8])
def test_nothing_to_hold_out(every):
    data = LabelledImages(torch.zeros(7, 3, 2, 2).byte(), torch.arange(7), tuple("abcdefg"), "x")
    with pytest.raises(InputError, match=r"every must lie in 2\.\.7"):
        hold_out(data, every)
