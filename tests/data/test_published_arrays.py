import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import CIFAR10

from acclimate.data import domains, load, load_images
from acclimate.data.published import array_sets, torchvision_sets

RNG = np.random.default_rng(3)
COUNT = 4


@pytest.fixture
def images():
    return {
        name: RNG.integers(0, 256, (5 * COUNT, 32, 32, 3), np.uint8) for name in ("fog", "snow")
    }


@pytest.fixture
def root(place, images):
    """CIFAR-10-C with two corruptions of four images."""
    for name, array in images.items():
        np.save(place / f"{name}.npy", array)
    np.save(place / "labels.npy", np.tile(np.array([3, 0, 9, 3], np.uint8), 5))
    return place


@pytest.mark.parametrize("severity", [1, 2, 5])
def test_cifar_c(root, images, severity, tmp_path):
    found = load("cifar10-c", "test", root=root, domain=f"snow/{severity}")
    rows = slice((severity - 1) * COUNT, severity * COUNT)
    np.testing.assert_array_equal(found.images.permute(0, 2, 3, 1), images["snow"][rows])
    assert found.images.is_contiguous(memory_format=torch.channels_last)
    assert found.labels.tolist() == [3, 0, 9, 3] and found.labels.dtype == torch.int64
    assert found.classes[3] == "cat" and len(found.classes) == 10
    assert (found.name, found.domain) == ("cifar10-c", f"snow/{severity}")
    assert found.paths[1] == f"snow.npy[{rows.start + 1}]" and len(found.paths) == COUNT
    assert found.skipped == ()
    assert not (tmp_path / "cache").exists()  # the array is its own cache


def test_only_one_severity_is_read(root):
    """What is handed on is a view of the file, not a copy of it."""
    found = array_sets.read_severity(root, "fog/2", range(1, 6), tuple("abcdefghij"), (32, 32), "")
    assert isinstance(found.images, np.memmap)
    assert found.images.shape[0] == COUNT
    assert not found.images.flags.writeable


def test_folder_that_holds_the_set(root, images):
    (root / "CIFAR-10-C").mkdir()
    for file in list(root.glob("*.npy")):
        file.rename(root / "CIFAR-10-C" / file.name)
    assert len(load("cifar10-c", "test", root=root, domain="fog/1").images) == COUNT


def test_without_labels_and_with_size(root, images):
    found = load_images("cifar10-c", root=root, domain="fog/4", size=16)
    expected = Image.fromarray(images["fog"][3 * COUNT]).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found.images[0].permute(1, 2, 0), np.asarray(expected))


def test_domains_that_are_there(root):
    listed = domains("cifar10-c", root=root)
    assert listed == tuple(
        f"{name}/{severity}" for name in ("fog", "snow") for severity in range(1, 6)
    )
    assert domains("cifar10") == ()


def test_cifar100_c(root):
    labels = np.tile(np.array([99, 0, 50, 7], np.int32), 5)
    np.save(root / "labels.npy", labels)
    found = load("cifar100-c", "test", root=root, domain="fog/1")
    assert found.labels.tolist() == [99, 0, 50, 7]
    assert [found.classes[label] for label in (0, 50, 99)] == ["apple", "mouse", "worm"]


def test_names_of_cifar100_are_a_hundred_in_order():
    names = torchvision_sets.CIFAR100_CLASSES
    assert len(set(names)) == 100 and list(names) == sorted(names)


@pytest.mark.parametrize("name, version", [("cifar10.1", "v6"), ("cifar10.1-v4", "v4")])
@pytest.mark.parametrize("dtype", [np.int32, np.uint8, ">i8"])
def test_cifar101(place, name, version, dtype):
    array = RNG.integers(0, 256, (3, 32, 32, 3), np.uint8)
    np.save(place / f"cifar10.1_{version}_data.npy", array)
    np.save(place / f"cifar10.1_{version}_labels.npy", np.array([1, 9, 0], dtype))
    found = load(name, "test", root=place)
    np.testing.assert_array_equal(found.images.permute(0, 2, 3, 1), array)
    assert found.labels.tolist() == [1, 9, 0] and found.domain == ""
    assert found.classes == torchvision_sets.CIFAR10_CLASSES
    assert len(load_images(name, root=place).images) == 3


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(1, 4),
    severities=st.permutations([1, 2, 3, 4, 5]).flatmap(
        lambda order: st.integers(1, 5).map(lambda n: order[:n])
    ),
    seed=st.integers(0, 99),
)
def test_any_stack_of_severities_comes_apart_again(count, severities, seed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stack")
    rng = np.random.default_rng(seed)
    parts = {each: rng.integers(0, 256, (count, 2, 3, 3), np.uint8) for each in severities}
    labels = rng.integers(0, 3, count)
    np.save(folder / "fog.npy", np.concatenate([parts[each] for each in severities]))
    np.save(folder / "labels.npy", np.tile(labels, len(severities)))
    for severity, expected in parts.items():
        found = array_sets.read_severity(
            folder, f"fog/{severity}", severities, tuple("abc"), (2, 3), "write it again"
        )
        np.testing.assert_array_equal(found.images, expected)
        np.testing.assert_array_equal(found.labels, labels)


def _remove_labels(root):
    (root / "labels.npy").unlink()


def _truncate(root):
    file = root / "fog.npy"
    file.write_bytes(file.read_bytes()[:-100])


def _truncate_header(root):
    (root / "fog.npy").write_bytes((root / "fog.npy").read_bytes()[:40])


def _with_header(root, header):
    """An array whose header is this, in place of a dictionary of shape and type."""
    text = header.ljust(117).encode() + b"\n"
    start = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little")
    (root / "fog.npy").write_bytes(start + text + bytes(1000))


def shaped(shape):
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': %s}"
    return lambda root: _with_header(root, header % shape)


def _object_labels(root):
    np.save(root / "labels.npy", np.array([{}] * 20, object), allow_pickle=True)


def _object_images(root):
    np.save(root / "fog.npy", np.array([{}] * 20, object), allow_pickle=True)


def _zip_for_labels(root):
    np.savez(root / "labels.npz", np.zeros(20, int))
    (root / "labels.npz").rename(root / "labels.npy")


def _other_labels(root):
    labels = np.tile(np.array([3, 0, 9, 3]), 5)
    labels[-1] = 4
    np.save(root / "labels.npy", labels)


def saved(name, array):
    return lambda root: np.save(root / name, array)


ZEROS = np.zeros((5 * COUNT, 32, 32, 3), np.uint8)
DAMAGE = {
    "labels missing": (
        _remove_labels,
        r"labels\.npy is missing: get CIFAR-10-C\.tar from https://",
    ),
    "images truncated": (_truncate, r"fog\.npy is not a readable \.npy file .*: get CIFAR-10-C"),
    "header truncated": (_truncate_header, r"fog\.npy is not a readable"),
    "header that is no Python": (lambda root: _with_header(root, "{'descr': ("), "not a readable"),
    "header that ends early": (lambda root: _with_header(root, "{'a':\n1"), "not a readable"),
    "shape beyond all numbers": (shaped(f"({10**30}, 32, 32, 3)"), "not a readable"),
    "shape that overflows": (shaped(f"({2**62}, 2, 2, 3)"), "not a readable"),
    "shape below 0": (shaped("(-1, 32, 32, 3)"), r"fog\.npy"),
    "images of floats": (saved("fog.npy", ZEROS / 255), r"fog\.npy holds float64 \[20, 32"),
    "images channels first": (saved("fog.npy", ZEROS.transpose(0, 3, 1, 2)), r"\[20, 3, 32, 32\]"),
    "images of another size": (saved("fog.npy", ZEROS[:, :16]), r"32 x 16 pixels, .* be 32 x 32"),
    "no image": (saved("fog.npy", ZEROS[:0]), r"fog\.npy"),
    "pickled images": (_object_images, r"fog\.npy is not a readable .*objects"),
    "pickled labels": (_object_labels, r"labels\.npy is not a readable .*objects"),
    "zip for labels": (_zip_for_labels, r"labels\.npy is not a readable"),
    "labels of floats": (saved("labels.npy", np.zeros(20)), r"labels\.npy holds float64 \[20\]"),
    "labels of truths": (saved("labels.npy", np.zeros(20, bool)), r"labels\.npy holds bool"),
    "labels in a column": (saved("labels.npy", np.zeros((20, 1), int)), r"holds int64 \[20, 1\]"),
    "label 10": (
        saved("labels.npy", np.full(20, 10)),
        r"labels 10\.\.10, but they must lie in 0\.\.9",
    ),
    "label -1": (saved("labels.npy", np.full(20, -1)), r"labels -1\.\.-1"),
    "label 2^64 - 1": (saved("labels.npy", np.full(20, 2**64 - 1, np.uint64)), r"1844674407370955"),
    "labels of one severity": (saved("labels.npy", np.zeros(4, int)), r"20 images .* 4 labels"),
    "images of four severities": (saved("fog.npy", ZEROS[:16]), r"16 images .* 20 labels"),
    "severities with other labels": (
        _other_labels,
        r"labels\.npy has different labels for different sever",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_refused(case, root, refused):
    damage, expected = DAMAGE[case]
    damage(root)
    said = refused(expected, "cifar10-c", "test", root=root, domain="fog/3")
    assert said.endswith(
        "get CIFAR-10-C.tar from https://zenodo.org/records/2535967 and unpack it."
    )


def test_four_parts_do_not_divide_by_five(root, refused):
    np.save(root / "fog.npy", ZEROS[:16])
    np.save(root / "labels.npy", np.zeros(16, int))
    refused("in 5 equal parts", "cifar10-c", "test", root=root, domain="fog/3")


@pytest.mark.parametrize(
    "domain, expected",
    [
        ("fgo/3", r"unknown domain of cifar10-c 'fgo/3': did you mean fog/3"),
        ("fog/6", r"unknown domain of cifar10-c 'fog/6': did you mean fog/"),
        ("fog", r"unknown domain of cifar10-c 'fog': did you mean fog/"),
        ("FOG/3", "unknown domain"),
        ("labels/1", "unknown domain"),
        ("../fog/3", "unknown domain .* did you mean fog/3"),
        ("", "unknown domain of cifar10-c ''"),
        (None, r"has domains: choose one of fog, snow, with a severity, such as fog/1\."),
    ],
)
def test_unknown_domain(root, refused, domain, expected):
    refused(expected, "cifar10-c", "test", root=root, domain=domain)
    refused(expected, "cifar10-c", root=root, domain=domain, call=load_images)


@pytest.mark.parametrize(
    "name, split, options, expected",
    [
        (
            "cifar10-c",
            "train",
            {"domain": "fog/3"},
            r"no training images: .* train on cifar10\.",
        ),
        ("cifar10.1", "train", {}, r"no training images"),
        ("cifar10.1", "test", {}, r"cifar10\.1_v6_data\.npy is missing: get .*modestyachts"),
        ("cifar10.1", "test", {"domain": "v4"}, r"has no domains: leave 'v4' out"),
        ("fashion-mnist-mini", "test", {"domain": "fog/3"}, "has no domains"),
        ("cifar10-c", "test", {"download": True}, r"cannot be downloaded by acclimate: get CIFAR"),
        ("fashion-mnist-mini", "test", {"download": True}, "cannot be downloaded"),
        ("some/folder", "test", {"download": True}, "only cifar10 and cifar100 can"),
        ("cifar10-d", "test", {}, r"unknown data set.*did you mean .*cifar10-c"),
    ],
)
def test_what_a_set_does_not_have(root, refused, name, split, options, expected):
    refused(expected, name, split, **({"root": root} | options))


def test_roots(root, refused, monkeypatch):
    refused("needs --root, its folder: get", "cifar10-c", "test", domain="fog/3")
    refused("there is no folder .*nowhere for cifar10-c: get", "cifar10-c", "test",
            root=root / "nowhere", domain="fog/3")  # fmt: skip
    (root / "empty").mkdir()
    refused("holds no domain of cifar10-c: get", "cifar10-c", "test", root=root / "empty",
            domain="fog/3")  # fmt: skip
    refused("holds no domain of cifar10-c", "cifar10-c", root=root / "empty", call=domains)
    refused("unknown data set", "cifar11", call=domains)
    (root / "pacs").mkdir()
    monkeypatch.chdir(root)
    refused(r"needs --root, its folder \(or \./pacs for the folder", "pacs", "test")


def test_cifar101_lengths(place, refused):
    np.save(place / "cifar10.1_v6_data.npy", ZEROS[:3])
    np.save(place / "cifar10.1_v6_labels.npy", np.zeros(2, int))
    refused(r"3 images and cifar10\.1_v6_labels\.npy 2 labels", "cifar10.1", "test", root=place)


def test_download_goes_through_torchvision(place, refused, monkeypatch):
    asked = []

    def offline(self):
        asked.append(self.root)
        raise OSError("no route to host")

    monkeypatch.setattr(CIFAR10, "download", offline)
    options = {"root": place / "new", "download": True}
    refused(r"could not be downloaded to .*no route to host\): check", "cifar10", "test", **options)
    assert asked == [place / "new"]
    refused("there is no folder .*new for cifar10: get it with torchvision", "cifar10", "test",
            root=place / "new")  # fmt: skip
