import contextlib
import json
import os
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acclimate.data import domains, load, load_images
from acclimate.data.corrupted import manifest
from acclimate.data.published import SETS, torchvision_sets
from acclimate.errors import InputError
from acclimate.storage.atomic import sha256

RNG = np.random.default_rng(4)
COUNT, SEVERITIES = 3, (5, 1)


def describe(folder, layout, /, **changes):
    """Write the manifest of what is there."""
    if layout == "npy":
        listed = sorted(file.name for file in folder.glob("*.npy"))
    else:
        listed = [f"fog/{severity}" for severity in SEVERITIES]
    record = {
        "format": "acclimate corrupted images",
        "version": 1,
        "layout": layout,
        "data": "letters",
        "classes": ["T-shirt/top", "b"] if layout == "npy" else ["a", "b"],
        "count": COUNT,
        "size": [4, 6],
        "seed": 0,
        "severities": list(SEVERITIES),
        "corruptions": ["fog"],
        "complete": True,
        "files": {name: manifest.checksum(folder / name) for name in listed},
    }
    record |= changes
    record = {key: value for key, value in record.items() if value is not ...}
    (folder / "manifest.json").write_text(json.dumps(record))


@pytest.fixture
def arrays(place):
    """Severity 5 before severity 1, as the manifest says."""
    np.save(place / "fog.npy", RNG.integers(0, 256, (2 * COUNT, 4, 6, 3), np.uint8))
    np.save(place / "labels.npy", np.tile(np.array([1, 0, 1]), 2))
    describe(place, "npy")
    return place


@pytest.fixture
def folders(place, draw):
    for severity in SEVERITIES:
        for number, path in enumerate(("a/10.png", "b/9.JPEG", "b/10.png")):
            draw(f"fog/{severity}/{path}", (severity, number, 0), size=(4, 6))
    describe(place, "folders")
    return place


def test_arrays(arrays):
    stacked = np.load(arrays / "fog.npy")
    for start, severity in ((0, 5), (COUNT, 1)):
        found = load(arrays, "test", domain=f"fog/{severity}")
        np.testing.assert_array_equal(
            found.images.permute(0, 2, 3, 1), stacked[start : start + COUNT]
        )
        assert found.labels.tolist() == [1, 0, 1] and found.classes == ("T-shirt/top", "b")
        assert (found.name, found.domain) == ("sets", f"fog/{severity}")
        assert found.paths[0] == f"fog.npy[{start}]"
        unlabelled = load_images(arrays, domain=f"fog/{severity}")
        assert torch.equal(unlabelled.images, found.images)
    assert domains(arrays) == domains(str(arrays)) == ("fog/5", "fog/1")


def test_folders(folders):
    found = load(folders, "test", domain="fog/5")
    assert found.images[:, :, 0, 0].tolist() == [[5, 0, 0], [5, 1, 0], [5, 2, 0]]
    assert found.labels.tolist() == [0, 1, 1] and found.classes == ("a", "b")
    assert found.paths == ("fog/5/a/10.png", "fog/5/b/9.JPEG", "fog/5/b/10.png")
    (folders / "fog" / "5" / ".DS_Store").write_text("what a file manager leaves")
    assert torch.equal(load(folders, "test", domain="fog/5").images, found.images)


def test_checksum_of_a_folder(folders):
    """The sorted lines "path sha256" of its files, so that anyone can compute it."""
    lines = ""
    for path in ("a/10.png", "b/10.png", "b/9.JPEG"):
        lines += f"{path} {sha256(folders / 'fog' / '5' / path)}\n"
    (folders / "list").write_text(lines)
    assert manifest.checksum(folders / "fog" / "5") == sha256(folders / "list")


def test_a_published_set_may_have_a_manifest(place, refused):
    np.save(place / "fog.npy", RNG.integers(0, 256, (2, 8, 8, 3), np.uint8))
    np.save(place / "labels.npy", np.array([9, 9]))
    classes = list(torchvision_sets.CIFAR10_CLASSES)
    options = {"count": 1, "size": [8, 8]}
    describe(place, "npy", classes=classes, **options)
    found = load("cifar10-c", "test", root=place, domain="fog/1")
    assert (found.name, found.labels.tolist()) == ("cifar10-c", [9])
    np.testing.assert_array_equal(found.images[0].permute(1, 2, 0), np.load(place / "fog.npy")[1])
    assert domains("cifar10-c", root=place) == ("fog/5", "fog/1")
    describe(place, "npy", classes=sorted(classes, reverse=True), **options)
    refused("has other classes than cifar10-c: give the folder itself", "cifar10-c", "test",
            root=place, domain="fog/1")  # fmt: skip


def test_every_c_set_tells_its_manifest_from_another():
    assert {name for name, each in SETS.items() if each.tests and each.domains} == {
        "cifar10-c", "cifar100-c", "tiny-imagenet-c", "imagenet-c"
    }  # fmt: skip


def test_verified_once(arrays, monkeypatch):
    read = []
    monkeypatch.setattr(manifest, "checksum", lambda path: read.append(path) or sha256(path))
    for _ in range(3):
        for domain in ("fog/1", "fog/5"):
            load(arrays, "test", domain=domain)
    assert sorted(path.name for path in read) == ["fog.npy", "labels.npy"]


def test_changed_after_it_was_verified(arrays, refused):
    load(arrays, "test", domain="fog/1")
    file = arrays / "fog.npy"
    stat = file.stat()
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    refused(r"fog\.npy has changed", arrays, "test", domain="fog/1")


def test_a_manifest_of_something_else_is_no_obstacle(place, draw):
    draw("train/a/1.png", (0, 0, 0))
    for content in (b'{"name": "app"}', b"", b"{", b"\xff"):
        (place / "manifest.json").write_bytes(content)
        assert load(place, "train").classes == ("a",)
        assert domains(place) == ()


def test_domain_of_a_plain_folder(place, draw, refused):
    draw("train/a/1.png", (0, 0, 0))
    expected = r"has no domains, since it has no readable manifest\.json .*: leave 'fog/3' out"
    refused(expected, place, "train", domain="fog/3")
    refused(expected, place, domain="fog/3", call=load_images)


def flip(name):
    def damage(root):
        data = bytearray((root / name).read_bytes())
        data[-1] ^= 1
        (root / name).write_bytes(data)

    return damage


def without(name):
    return lambda root: (root / name).unlink()


def says(**changes):
    return lambda root: describe(root, "npy", **changes)


def _half(root):
    file = root / "manifest.json"
    file.write_bytes(file.read_bytes()[:-20])


def _list(root):
    (root / "manifest.json").write_text('["acclimate corrupted images"]')


def _deep(root):
    (root / "manifest.json").write_text('"acclimate corrupted images"' + "[" * 100_000)


SUM = "0" * 64
DAMAGE = {
    "array changed": (flip("fog.npy"), r"fog\.npy has changed, its checksum is not that of manif"),
    "labels changed": (flip("labels.npy"), r"labels\.npy has changed"),
    "array missing": (without("fog.npy"), r"fog\.npy is missing, though manifest\.json lists it"),
    "labels missing": (without("labels.npy"), r"labels\.npy is missing, though"),
    "unfinished": (says(complete=False), r"is unfinished, .*: run acclimate corrupt again to fini"),
    "half a manifest": (
        _half,
        r"manifest\.json is damaged, it is not readable JSON: run acclimate",
    ),
    "a list": (_list, "its format is not"),
    "nested beyond reason": (_deep, "not readable JSON"),
    "of the future": (says(version=2), r"is of version 2: upgrade acclimate"),
    "version 0": (says(version=0), "'version'"),
    "no version": (says(version=...), "'version' is missing or invalid"),
    "version true": (says(version=True), "'version'"),
    "perhaps complete": (says(complete=1), "'complete'"),
    "layout unknown": (says(layout="tar"), "'layout'"),
    "no class": (says(classes=[]), "'classes'"),
    "class twice": (says(classes=["a", "a"]), "'classes'"),
    "class 3": (says(classes=["a", 3]), "'classes'"),
    "label without class": (says(classes=["a"]), r"labels 0\.\.1, but they must lie in 0\.\.0"),
    "severity 6": (says(severities=[6, 1]), "'severities'"),
    "severity true": (says(severities=[True]), "'severities'"),
    "corruption elsewhere": (says(corruptions=["../fog"]), "'corruptions'"),
    "corruption in dots": (says(corruptions=[".."]), "'corruptions'"),
    "file elsewhere": (says(files={"../fog.npy": SUM}), "'files'"),
    "file at the root": (says(files={"/etc/passwd": SUM}), "'files'"),
    "file without checksum": (says(files={"fog.npy": "abc"}), "'files'"),
    "file not listed": (says(files={"labels.npy": SUM}), r"has no checksum of fog\.npy"),
    "size of one": (says(size=[4]), "'size'"),
    "size of text": (says(size="46"), "'size'"),
    "size of others": (says(size=[6, 4]), "images of 6 x 4 pixels, but they must be 4 x 6"),
    "count 0": (says(count=0), "'count'"),
    "count of others": (says(count=2), r"holds 3 images of fog/1, but its manifest\.json says 2"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_refused(case, arrays, refused):
    damage, expected = DAMAGE[case]
    damage(arrays)
    refused(expected, arrays, "test", domain="fog/1")
    refused(expected, arrays, domain="fog/1", call=load_images)


def test_damage_to_folders(folders, draw, refused):
    def check(expected):
        refused(expected, folders, "test", domain="fog/5")

    draw("fog/5/b/11.png", (0, 0, 0), size=(4, 6))
    check("5 has changed")
    describe(folders, "folders")
    check("holds 4 images of fog/5, but")
    describe(folders, "folders", classes=["a", "c"], count=4)
    check("class folder 'b', which is none of the 2")
    describe(folders, "folders", classes=["a", "../b"])
    check("a class cannot be the name of a folder")
    describe(folders, "folders", count=4)
    (folders / "fog" / "5" / "b" / "11.png").unlink()
    check("5 has changed")
    shutil.rmtree(folders / "fog" / "5")
    check("5 is missing, though")


@pytest.mark.parametrize(
    "split, domain, expected",
    [
        ("test", None, r"has domains: choose one of fog, with a severity, such as fog/5\."),
        ("test", "fog/2", r"'fog/2': did you mean fog/5 or fog/1\?"),
        ("test", "fgo/5", "did you mean fog/5"),
        ("train", "fog/5", "holds corrupted test images"),
    ],
)
def test_what_a_folder_does_not_have(arrays, refused, split, domain, expected):
    refused(expected, arrays, split, domain=domain)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


ENTRIES = ("version", "layout", "classes", "count", "size", "severities", "corruptions")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(key=st.sampled_from((*ENTRIES, "complete", "files")), value=json_values)
def test_whatever_an_entry_holds_it_is_used_or_refused(arrays, key, value):
    describe(arrays, "npy", **{key: value})
    with contextlib.suppress(InputError):
        found = load(arrays, "test", domain="fog/1")
        assert found.images.shape == (COUNT, 3, 4, 6) and found.labels.tolist() == [1, 0, 1]
