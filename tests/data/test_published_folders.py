import shutil

import numpy as np
import pytest
import torch

from acclimate.data import domains, hold_out, load, load_images
from acclimate.data.published import domain_sets, imagenet

FIRST, SECOND, LAST = "n01440764", "n01443537", "n15075141"
CLASSES = {"pacs": 7, "office-home": 65, "visda": 12}


def colours(found):
    return found.images[:, :, 0, 0].tolist()


def cut(file):
    file.write_bytes(file.read_bytes()[:40])


def test_the_lists_of_synsets():
    whole = imagenet.synsets()
    assert len(whole) == len(set(whole)) == 1000 and list(whole) == sorted(whole)
    assert (whole[0], whole[1], whole[999]) == (FIRST, SECOND, LAST)
    for which in ("imagenet_r", "imagenet_a"):
        assert len(set(imagenet.synsets(which)) & set(whole)) == 200


@pytest.fixture
def small_imagenet(place, draw):
    for split in ("train", "val"):
        draw(f"{split}/{LAST}/10.JPEG", (1, 2, 3))
        draw(f"{split}/{LAST}/9.JPEG", (4, 5, 6))
        draw(f"{split}/{SECOND}/a.JPEG", (7, 8, 9), size=(4, 6))
    return place


def test_imagenet(small_imagenet):
    for split, folder in (("train", "train"), ("test", "val")):
        found = load("imagenet", split, root=small_imagenet, size=4)
        assert found.labels.tolist() == [1, 999, 999]
        assert colours(found) == [[7, 8, 9], [4, 5, 6], [1, 2, 3]]
        assert found.paths[1] == f"{folder}/{LAST}/9.JPEG"
        assert found.classes[999] == LAST and len(found.classes) == 1000
        assert (found.name, found.domain) == ("imagenet", "")
    both = load_images("imagenet", root=small_imagenet, size=4)
    assert len(both.images) == len(set(both.paths)) == 6


@pytest.mark.parametrize("group", ["", "weather/", "extra/"])
def test_imagenet_c(place, draw, group):
    for severity in (1, 5):
        draw(f"{group}fog/{severity}/{SECOND}/a.JPEG", (severity, 0, 0))
    draw(f"snow/2/{FIRST}/a.JPEG", (9, 9, 9))
    assert domains("imagenet-c", root=place) == ("fog/1", "fog/5", "snow/2")
    found = load("imagenet-c", "test", root=place, domain="fog/5")
    assert colours(found) == [[5, 0, 0]] and found.labels.tolist() == [1]
    assert found.domain == "fog/5" and found.paths == (f"{group}fog/5/{SECOND}/a.JPEG",)
    (place / "other").mkdir()
    (place / "fog").mkdir(exist_ok=True)
    (place / "fog" / "12").mkdir()  # no severity
    assert len(domains("imagenet-c", root=place)) == 3


@pytest.mark.parametrize("name, synset", [("imagenet-r", "n01443537"), ("imagenet-a", "n01498041")])
def test_imagenet_of_200_classes(place, draw, refused, name, synset):
    label = imagenet.synsets().index(synset)
    draw(f"{name}/{synset}/a.jpg", (3, 3, 3))
    found = load(name, "test", root=place)
    assert found.labels.tolist() == [label] and len(found.classes) == 1000
    assert found.paths == (f"{synset}/a.jpg",)
    draw(f"{name}/{FIRST}/a.jpg", (3, 3, 3))  # of the 1000, not of the 200
    refused(rf"has the class folder '{FIRST}', which is none of the 200 .*: remove it, or get",
            name, "test", root=place)  # fmt: skip


def test_imagenet_sketch(place, draw):
    draw(f"sketch/{LAST}/a.JPEG", (3, 3, 3))
    assert load("imagenet-sketch", "test", root=place).labels.tolist() == [999]


def test_imagenet_v2_counts_in_numbers(place, draw, refused):
    for label in (0, 2, 10, 999):
        draw(f"{label}/a.jpeg", (label % 256, label // 256, 0))
    found = load("imagenet-v2", "test", root=place)
    assert found.labels.tolist() == [red + 256 * green for red, green, _ in colours(found)]
    assert sorted(found.labels.tolist()) == [0, 2, 10, 999]
    assert found.classes == imagenet.synsets()
    draw("1000/a.jpeg", (0, 0, 0))
    refused("class folder '1000', which is none of the 1000", "imagenet-v2", "test", root=place)
    (place / "1000").rename(place / "007")
    refused("class folder '007'", "imagenet-v2", "test", root=place)


def test_truncated_images_are_skipped_by_name(small_imagenet, refused):
    cut(small_imagenet / "val" / LAST / "9.JPEG")
    found = load("imagenet", "test", root=small_imagenet, size=4)
    assert found.labels.tolist() == [1, 999]
    assert [each.path for each in found.skipped] == [f"val/{LAST}/9.JPEG"]
    assert found.paths == (f"val/{SECOND}/a.JPEG", f"val/{LAST}/10.JPEG")
    for file in (small_imagenet / "val").rglob("*.JPEG"):
        cut(file)
    refused("none of the 3 images can be used", "imagenet", "test", root=small_imagenet, size=4)


def test_stray_images_are_skipped(small_imagenet, draw):
    draw("val/stray.JPEG", (0, 0, 0))
    (skipped,) = load("imagenet", "test", root=small_imagenet, size=4).skipped
    assert skipped.path == "val/stray.JPEG" and "no class folder" in skipped.reason


def test_imagenet_refusals(small_imagenet, draw, refused):
    root = small_imagenet
    refused("differ in size .* pass --size", "imagenet", "test", root=root)
    (root / "val" / FIRST).mkdir()
    refused(f"{FIRST} has no image in it: get ILSVRC", "imagenet", "test", root=root)
    (root / "val" / FIRST).rename(root / "val" / "fish")
    refused("val has the class folder 'fish', which is none", "imagenet", "test", root=root)
    shutil.rmtree(root / "val")
    refused("the folder .*val is missing: get ILSVRC 2012 from", "imagenet", "test", root=root)
    draw("val/ILSVRC2012_val_00000001.JPEG", (0, 0, 0))
    refused("val has no class folders: .* sort its images into", "imagenet", "test", root=root)
    for each in (root / "train").iterdir():
        shutil.rmtree(each)
        each.mkdir()
    refused("there is no image in", "imagenet", "train", root=root)


def test_imagenet_c_refusals(place, draw, refused):
    options = {"root": place, "domain": "fog/3"}
    refused("holds no domain of imagenet-c: get its archives", "imagenet-c", "test", **options)
    draw(f"fog/2/{FIRST}/a.JPEG", (0, 0, 0))
    refused(r"'fog/3': did you mean fog/2\?", "imagenet-c", "test", **options)
    refused("no training images: .* train on imagenet", "imagenet-c", "train", **options)
    draw("fog/3/a.JPEG", (0, 0, 0))
    refused("3 has no class folders", "imagenet-c", "test", **options)


def make(place, draw, name, folders):
    for number, folder in enumerate(folders):
        for label in range(CLASSES[name]):
            draw(f"{folder}/class {label:02}/a.jpg", (number, label, 0))
    return place


SPELLINGS = {
    "pacs": ("art_painting", "cartoon", "photo", "sketch"),
    "office-home": ("Art", "Clipart", "Product", "RealWorld"),
    "visda": ("train", "validation"),
}


@pytest.mark.parametrize("name", CLASSES)
def test_domain_sets(name, place, draw):
    spelt = SPELLINGS[name]
    make(place, draw, name, spelt)
    listed = domains(name, root=place)
    assert listed == domain_sets._DOMAINS[name]
    for number, domain in enumerate(listed):
        found = load(name, "test", root=place, domain=domain)
        labels = found.labels.tolist()
        assert labels == list(range(CLASSES[name]))
        assert colours(found) == [[number, label, 0] for label in labels]
        assert found.domain == domain and found.classes[1] == "class 01"
        assert found.paths[0] == f"{spelt[number]}/class 00/a.jpg"
        again = load(name, "train", root=place, domain=domain)
        assert torch.equal(again.images, found.images)  # there are no published splits
    assert len(load_images(name, root=place, domain=listed[0]).images) == CLASSES[name]
    rest, held = hold_out(found, 3)
    assert rest.domain == held.domain == listed[-1]


@pytest.mark.parametrize("folder", ["Real World", "Real_World", "RealWorld"])
@pytest.mark.parametrize("asked", ["Real World", "RealWorld", "real-world"])
def test_spellings_of_real_world(place, draw, folder, asked):
    make(place, draw, "office-home", [folder])
    assert load("office-home", "test", root=place, domain=asked).domain == "Real World"


def test_other_folders_are_no_domains(place, draw):
    make(place, draw, "pacs", ["PACS/photo", "PACS/splits", "PACS/quickdraw"])
    assert domains("pacs", root=place) == ("photo",)


def test_domain_set_refusals(place, draw, refused):
    options = {"root": place, "domain": "photo"}
    refused("holds no domain of pacs: get it via", "pacs", "test", **options)
    make(place, draw, "pacs", ["photo", "sketch", "cartoon"])
    refused("domain of pacs 'sketsh': did you mean sketch", "pacs", "test", root=place,
            domain="sketsh")  # fmt: skip
    refused(r"has domains: choose one of cartoon, photo, sketch\.", "pacs", "test", root=place)
    draw("sketch/zebra/a.jpg", (0, 0, 0))
    expected = "cartoon lacks the class folder 'zebra', which sketch has, .*: remove it there, or"
    refused(expected, "pacs", "test", **options)
    shutil.rmtree(place / "sketch" / "zebra")
    shutil.rmtree(place / "photo" / "class 03")
    refused("photo lacks the class folder 'class 03', which", "pacs", "test", **options)
    for each in ("sketch", "cartoon"):
        shutil.rmtree(place / each / "class 03")
    refused("photo has 6 class folders, but pacs has 7", "pacs", "test", **options)
    for each in ("photo", "sketch", "cartoon"):
        (place / each / "class 03").mkdir()
    refused("class 03 has no image in it", "pacs", "test", **options)


def test_any_colour_comes_back(place, draw):
    expected = np.random.default_rng(0).integers(0, 256, (7, 3)).tolist()
    for label, colour in enumerate(expected):
        draw(f"photo/{label}/a.png", colour)
    assert colours(load("pacs", "train", root=place, domain="photo")) == expected
