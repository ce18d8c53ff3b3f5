import shutil
import zipfile

import pytest
import torch

from acclimate.data import domains, load, load_images

# Not in sorted order, as in the published list.
WNIDS = ("n02124075", "n01443537", "n04067472")


def colours(found):
    return found.images[:, :, 0, 0].tolist()


@pytest.fixture
def root(place, draw):
    for number, wnid in enumerate(WNIDS):
        for image in range(2):
            draw(f"train/{wnid}/images/{wnid}_{image}.JPEG", (number, image, 0))
        (place / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
    (place / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    lines = []
    for image in (0, 1, 2, 10):
        draw(f"val/images/val_{image}.JPEG", (image, image, image))
        lines.append(f"val_{image}.JPEG\t{WNIDS[image % 3]}\t0\t32\t44\t62")
    (place / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    draw("test/images/test_0.JPEG", (0, 0, 0))
    return place


def zipped(root, prefix):
    archive = root.parent / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for file in sorted(root.rglob("*")):
            opened.write(file, prefix + file.relative_to(root).as_posix())
    return archive


def test_both_splits(root):
    train, test = (load("tiny-imagenet", split, root=root) for split in ("train", "test"))
    assert train.classes == test.classes == tuple(sorted(WNIDS))
    assert [train.classes[label] for label in train.labels] == sorted(WNIDS * 2)
    for colour, label in zip(colours(train), train.labels):
        assert WNIDS[colour[0]] == train.classes[label]
    assert [colour[0] for colour in colours(test)] == [0, 1, 2, 10]
    assert [test.classes[label] for label in test.labels] == [*WNIDS, WNIDS[1]]
    assert test.paths[3] == "val/images/val_10.JPEG" and test.skipped == ()
    assert len(load_images("tiny-imagenet", root=root).images) == 10  # not those of test/


@pytest.mark.parametrize("prefix", ["", "tiny-imagenet-200/"])
@pytest.mark.parametrize("given", ["archive", "its folder"])
def test_zip_equals_folder(root, prefix, given):
    archive = zipped(root, prefix)
    where = archive if given == "archive" else archive.parent
    for split in ("train", "test"):
        ours, theirs = (
            load("tiny-imagenet", split, root=where),
            load("tiny-imagenet", split, root=root),
        )
        assert torch.equal(ours.images, theirs.images) and torch.equal(ours.labels, theirs.labels)
        assert ours.paths == tuple(prefix + path for path in theirs.paths)
        assert ours.classes == theirs.classes


def test_lists_with_a_byte_order_mark_and_windows_line_ends(root):
    before = load("tiny-imagenet", "test", root=root)
    for name in ("wnids.txt", "val/val_annotations.txt"):
        content = (root / name).read_bytes().replace(b"\n", b"\r\n")
        (root / name).write_bytes(b"\xef\xbb\xbf" + content)
    after = load("tiny-imagenet", "test", root=root)
    assert after.classes == before.classes
    assert torch.equal(after.labels, before.labels)


def test_a_part_of_the_validation_images(root):
    (root / "val" / "images" / "val_1.JPEG").unlink()
    (root / "val" / "images" / "val_10.JPEG").unlink()
    found = load("tiny-imagenet", "test", root=root)
    assert [colour[0] for colour in colours(found)] == [0, 2]
    (skipped,) = found.skipped
    assert skipped.path == "val/val_annotations.txt"
    assert skipped.reason.startswith("2 of the images that it lists are missing, such as val_1.")


def annotations(text):
    def write(root):
        with (root / "val" / "val_annotations.txt").open("a") as file:
            file.write(text)

    return write


def without(path):
    def remove(root):
        shutil.rmtree(root / path) if (root / path).is_dir() else (root / path).unlink()

    return remove


def text(path, content):
    return lambda root: (root / path).write_bytes(content)


def _unannotated(root):
    shutil.copy(root / "val/images/val_0.JPEG", root / "val/images/val_3.JPEG")


def _unlisted_class(root):
    shutil.copytree(root / "train" / WNIDS[0], root / "train" / "n00000001")


DAMAGE = {
    "no list": ("test", without("wnids.txt"), r"wnids\.txt is missing in .*: get http://cs231n"),
    "empty list": ("test", text("wnids.txt", b""), r"wnids\.txt .* is empty"),
    "list with junk": ("test", text("wnids.txt", b"\xff\x00"), r"wnids\.txt .* cannot be read"),
    "list of words": (
        "test",
        text("wnids.txt", b"cat\ndog"),
        "lists 'cat', which is no WordNet id",
    ),
    "list with doubles": ("test", text("wnids.txt", b"n01443537\n" * 2), "is listed twice"),
    "list without a class": ("train", text("wnids.txt", b"n01443537"), r"'n02124075', which wnids"),
    "no annotations": ("test", without("val/val_annotations.txt"), r"annotations\.txt is missing"),
    "unknown class": ("test", annotations("x.JPEG\tn09999999\t"), "damaged at line 5, .*n09999999"),
    "no class": ("test", annotations("x.JPEG\n"), "damaged at line 5"),
    "image twice": ("test", annotations(f"val_0.JPEG\t{WNIDS[0]}\n"), "damaged at line 5"),
    "image elsewhere": ("test", annotations(f"../a.JPEG\t{WNIDS[0]}\n"), r"line 5, '\.\./a\.JPEG"),
    "image at the root": ("test", annotations(f"/a.JPEG\t{WNIDS[0]}\n"), "damaged at line 5"),
    "image without annotation": ("test", _unannotated, r"names no class for .*'val_3\.JPEG'"),
    "no images": ("test", without("val/images"), "there is no image in"),
    "no split": ("test", without("val"), "val_annotations.txt is missing|val is missing"),
    "no train": ("train", without("train"), "the folder .*train is missing: get http"),
    "class without images": (
        "train",
        without(f"train/{WNIDS[0]}"),
        "no image of the class n02124075",
    ),
    "class folder not in the list": (
        "train",
        _unlisted_class,
        r"'n00000001', which wnids\.txt does",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_refused(case, root, refused):
    split, damage, expected = DAMAGE[case]
    damage(root)
    refused(expected, "tiny-imagenet", split, root=root)


def test_damaged_zips(root, refused):
    (root / "bad.zip").write_bytes(b"PK\x03\x04 no more")
    refused("is not a readable zip .*: get", "tiny-imagenet", "test", root=root / "bad.zip")
    (root / "wnids.txt").unlink()
    archive = zipped(root, "tiny-imagenet-200/")
    refused("wnids.txt is missing in", "tiny-imagenet", "test", root=archive)
    (root / "wnids.txt").write_text("\n".join(WNIDS))
    shutil.rmtree(root / "train")
    (root / "val" / "val_annotations.txt").unlink()
    archive = zipped(root, "tiny-imagenet-200/")
    refused("no image in tiny-imagenet-200/train: get", "tiny-imagenet", "train", root=archive)
    refused("val_annotations.txt is missing in", "tiny-imagenet", "test", root=archive)


def test_a_truncated_image_is_skipped(root):
    file = root / "train" / WNIDS[1] / "images" / f"{WNIDS[1]}_0.JPEG"
    file.write_bytes(file.read_bytes()[:30])
    found = load("tiny-imagenet", "train", root=root)
    assert found.labels.tolist() == [0, 1, 1, 2, 2]
    assert [each.path for each in found.skipped] == [f"train/{WNIDS[1]}/images/{WNIDS[1]}_0.JPEG"]


def test_tiny_imagenet_c_of_200_classes(place, draw, refused):
    names = [f"n{number:08}" for number in range(200)]
    for number, name in enumerate(names):
        draw(f"Tiny-ImageNet-C/fog/3/{name}/test_{number}.JPEG", (number, 0, 0), size=(2, 2))
    assert domains("tiny-imagenet-c", root=place) == ("fog/3",)
    options = {"root": place, "domain": "fog/3"}
    found = load("tiny-imagenet-c", "test", **options)
    assert found.labels.tolist() == [red for red, _, _ in colours(found)] == list(range(200))
    assert found.classes == tuple(names) and found.domain == "fog/3"
    shutil.rmtree(place / "Tiny-ImageNet-C" / "fog" / "3" / names[7])
    refused(r"has 199 class folders, but .* 200 classes: put TinyImageNet's wnids\.txt into",
            "tiny-imagenet-c", "test", **options)  # fmt: skip


def test_tiny_imagenet_c_with_the_list_of_classes(root, draw, refused):
    for number, wnid in enumerate(WNIDS):
        draw(f"fog/1/{wnid}/a.JPEG", (number, 0, 0))
    options = {"root": root, "domain": "fog/1"}
    found = load("tiny-imagenet-c", "test", **options)
    assert found.classes == load("tiny-imagenet", "test", root=root).classes
    assert [WNIDS[red] for red, _, _ in colours(found)] == [found.classes[y] for y in found.labels]
    shutil.rmtree(root / "fog" / "1" / WNIDS[0])
    refused(f"lacks the class folder '{WNIDS[0]}'", "tiny-imagenet-c", "test", **options)
