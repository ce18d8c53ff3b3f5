import hashlib
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from acclimate.data import Images, LabelledImages, corrupt, domains, load, load_images
from acclimate.data.corrupted import layouts
from acclimate.data.corrupted.plan import CorruptionPlan
from acclimate.data.corrupted.write import write_corrupted
from acclimate.data.corruptions import CONSTANTS, PUBLISHED
from acclimate.errors import InputError

SMALL = CorruptionPlan(("fog", "jpeg_compression"), (2, 5), seed=3)


def labelled(size=20, count=7, paths=True):
    generator = torch.Generator().manual_seed(size)
    images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    names = tuple(f"test/{'ab'[i % 2]}/{i}.x.png" for i in range(count)) if paths else ()
    return LabelledImages(images, torch.arange(count) % 2, ("a", "b"), "set", paths=names)


def nhwc(images):
    return images.permute(0, 2, 3, 1).numpy()


def contents(folder):
    """Every file below a folder, hidden ones too, with its bytes."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def test_small_images_become_stacked_arrays(tmp_path):
    data = labelled()
    written = write_corrupted(data, "my set", tmp_path / "out", SMALL)
    assert written.made == 28
    for name in SMALL.corruptions:
        array = np.load(tmp_path / "out" / f"{name}.npy", allow_pickle=False)
        blocks = [corrupt(data.images, name, severity, seed=3) for severity in (2, 5)]
        assert np.array_equal(array, nhwc(torch.cat(blocks)))
        assert array.dtype == np.uint8
    labels = np.load(tmp_path / "out" / "labels.npy", allow_pickle=False)
    assert labels.tolist() == [0, 1, 0, 1, 0, 1, 0] * 2


def test_large_images_become_class_folders(tmp_path):
    data = labelled(size=64)
    write_corrupted(data, "my set", tmp_path / "out", SMALL)
    found = contents(tmp_path / "out")
    assert sorted(found)[:4] == [f"fog/2/a/{i}.x.JPEG" for i in (0, 2, 4, 6)]
    assert len(found) == 28 + 1
    for severity in (2, 5):
        for number, pixels in enumerate(nhwc(corrupt(data.images, "fog", severity, seed=3))):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=85)
            name = f"fog/{severity}/{'ab'[number % 2]}/{number}.x.JPEG"
            assert found[name] == file.getvalue()


def test_png_folders_lose_nothing_and_load_as_they_were(tmp_path):
    data = labelled(size=64)
    plan = CorruptionPlan(("contrast",), (1,), image_format="png")
    write_corrupted(data, "my set", tmp_path / "out", plan)
    pixels = nhwc(corrupt(data.images, "contrast", 1))
    for number, expected in enumerate(pixels):
        path = tmp_path / "out" / "contrast" / "1" / "ab"[number % 2] / f"{number}.x.png"
        assert np.array_equal(np.asarray(Image.open(path)), expected)


def test_the_manifest_says_what_was_made_of_what(tmp_path):
    data = labelled()
    written = write_corrupted(data, "my set", tmp_path / "npy", SMALL)
    manifest = json.loads((tmp_path / "npy" / "manifest.json").read_text())
    assert manifest == written.manifest
    assert manifest["data"] == "my set"
    assert manifest["classes"] == ["a", "b"]
    assert (manifest["count"], manifest["size"], manifest["seed"]) == (7, [20, 20], 3)
    assert manifest["complete"] is True
    assert manifest["constants_published_for_size"] == 32
    assert manifest["lengths_scaled_by"] == 20 / 32
    assert manifest["constants"]["fog"] == [list(CONSTANTS["fog"][32][i]) for i in (1, 4)]
    found = contents(tmp_path / "npy")
    assert manifest["files"] == {
        name: sha256(found[name]) for name in ("fog.npy", "jpeg_compression.npy", "labels.npy")
    }
    assert manifest["frost_textures"] is None

    plan = CorruptionPlan(("frost",), (1,), layout="folders")
    manifest = write_corrupted(data, "my set", tmp_path / "folders", plan).manifest
    assert manifest["frost_textures"]["source"] == "synthetic"
    found = contents(tmp_path / "folders" / "frost" / "1")
    lines = sorted(f"{name} {sha256(data)}\n" for name, data in found.items())
    assert manifest["files"] == {"frost/1": sha256("".join(lines).encode())}


@pytest.mark.parametrize("size", [20, 64])
def test_another_seed_gives_other_images_and_the_same_one_the_same(tmp_path, size):
    for number, seed in enumerate((3, 3, 4)):
        plan = CorruptionPlan(("fog",), (2,), seed=seed)
        write_corrupted(labelled(size), "set", tmp_path / str(number), plan)
    first, again, other = (contents(tmp_path / str(number)) for number in range(3))
    assert first == again
    images = set(first) - {"manifest.json", "labels.npy"}
    assert all(first[name] != other[name] for name in images)


@pytest.mark.parametrize("size", [20, 64])
def test_what_an_earlier_run_left_is_kept_and_the_rest_is_made(tmp_path, size):
    data = labelled(size)
    write_corrupted(data, "set", tmp_path / "whole", SMALL)
    expected = contents(tmp_path / "whole")

    def fail(images, name, *arguments, **options):
        if name == "jpeg_compression":
            raise KeyboardInterrupt
        return corrupt(images, name, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(layouts, "corrupt", fail)
        patch.setattr(os, "cpu_count", lambda: 1)
        write_corrupted(data, "set", tmp_path / "out", SMALL)
    left = contents(tmp_path / "out")
    assert json.loads(left["manifest.json"])["complete"] is False
    assert any(name.startswith("fog") for name in left)
    assert not any(name.startswith("jpeg") for name in left)
    (tmp_path / "out" / ".fog.npy.1.partial").write_bytes(b"killed in the middle")
    (tmp_path / "out" / ".jpeg_compression-2.partial").mkdir()
    assert write_corrupted(data, "set", tmp_path / "out", SMALL).made == 14
    assert contents(tmp_path / "out") == expected
    assert write_corrupted(data, "set", tmp_path / "out", SMALL).made == 0


@pytest.mark.parametrize("damage", ["missing", "cut short", "flipped"])
@pytest.mark.parametrize("size", [20, 64])
def test_what_was_damaged_is_made_again(tmp_path, size, damage):
    data = labelled(size)
    write_corrupted(data, "set", tmp_path, SMALL)
    expected = contents(tmp_path)
    file = tmp_path / ("fog.npy" if size == 20 else "fog/2/a/0.x.JPEG")
    written = bytearray(file.read_bytes())
    written[-3] ^= 1
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(written if damage == "flipped" else written[:50])
    assert write_corrupted(data, "set", tmp_path, SMALL).made == (14 if size == 20 else 7)
    assert contents(tmp_path) == expected


@pytest.mark.parametrize(
    ("plan", "what"),
    [
        (CorruptionPlan(SMALL.corruptions, (2, 5), seed=4), "seed"),
        (CorruptionPlan(SMALL.corruptions, (2,), seed=3), "severities"),
        (CorruptionPlan(("fog",), (2, 5), seed=3), "corruptions"),
        (CorruptionPlan(SMALL.corruptions, (2, 5), seed=3, layout="folders"), "layout"),
    ],
)
def test_a_folder_of_other_settings_is_refused(tmp_path, plan, what):
    write_corrupted(labelled(), "set", tmp_path, SMALL)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=f"started with different {what}; choose another --out"):
        write_corrupted(labelled(), "set", tmp_path, plan)
    with pytest.raises(InputError, match="started with different images"):
        changed = labelled()
        changed.images[3, 1, 5, 5] ^= 1
        write_corrupted(changed, "set", tmp_path, SMALL)
    assert contents(tmp_path) == before


def test_a_folder_that_is_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is no corrupted data set; choose another --out"):
        write_corrupted(labelled(), "set", tmp_path, SMALL)
    with pytest.raises(InputError, match="is no corrupted data set"):
        write_corrupted(labelled(), "set", tmp_path / "thesis.txt", SMALL)
    (tmp_path / "manifest.json").write_text('{"name": "of a web page", "icons": []}')
    with pytest.raises(InputError, match="is no corrupted data set"):
        write_corrupted(labelled(), "set", tmp_path, SMALL)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    "text",
    [
        '{"format": "acclimate corrupted images"',
        '["acclimate corrupted images"]',
        "[" * 100_000 + "acclimate corrupted images",
    ],
    ids=["cut short", "a list", "deep"],
)
def test_a_damaged_manifest_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest.json is damaged, .* with another --out"):
        write_corrupted(labelled(), "set", tmp_path, SMALL)
    assert (tmp_path / "manifest.json").read_text() == text


def test_a_manifest_without_files_is_refused(tmp_path):
    write_corrupted(labelled(), "set", tmp_path, SMALL)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"files": 3}))
    with pytest.raises(InputError, match="it lists no files"):
        write_corrupted(labelled(), "set", tmp_path, SMALL)


@pytest.mark.parametrize("size", [20, 64])
def test_the_same_images_with_other_labels_are_another_set(tmp_path, size):
    data = labelled(size)
    write_corrupted(data, "set", tmp_path, SMALL)
    before = contents(tmp_path)
    with pytest.raises(InputError, match="started with different labels"):
        write_corrupted(replace(data, labels=data.labels.flip(0) * 0), "set", tmp_path, SMALL)
    if size == 64:
        with pytest.raises(InputError, match="started with different paths"):
            write_corrupted(replace(data, paths=data.paths[::-1]), "set", tmp_path, SMALL)
    assert contents(tmp_path) == before


def test_the_same_data_by_another_path_is_the_same_set(tmp_path):
    write_corrupted(labelled(), "set", tmp_path, SMALL)
    before = contents(tmp_path)
    assert write_corrupted(labelled(), "./set/", tmp_path, SMALL).made == 0
    assert contents(tmp_path) == before


def test_two_runs_do_not_write_one_folder(tmp_path):
    said = []

    def again(*arguments):
        if not said:
            with pytest.raises(InputError, match="another run is writing") as refused:
                write_corrupted(labelled(64), "set", tmp_path / "out", SMALL)
            said.append(refused)

    write_corrupted(labelled(64), "set", tmp_path / "out", SMALL, progress=again)
    assert said
    write_corrupted(labelled(64), "set", tmp_path / "whole", SMALL)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_run_killed_before_its_manifest_can_be_repeated(tmp_path):
    (tmp_path / ".manifest.json.77.partial").write_text("{")
    write_corrupted(labelled(), "set", tmp_path, SMALL)
    assert ".manifest.json.77.partial" not in contents(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"corruptions": ("fgo",)}, "unknown corruption 'fgo': did you mean fog"),
        ({"severities": (0,)}, "severity 0 does not exist"),
        ({"severities": (1, 1)}, "at least one severity, and none twice"),
        ({"corruptions": ()}, "at least one corruption"),
    ],
)
def test_a_bad_recipe_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        CorruptionPlan(**wrong)


@pytest.mark.parametrize("size", [20, 64])
def test_what_is_written_can_be_loaded(tmp_path, size):
    data = labelled(size)
    plan = CorruptionPlan(("fog", "contrast"), (5, 2), image_format="png")
    write_corrupted(data, "set", tmp_path / "out", plan)
    assert domains(tmp_path / "out") == ("fog/5", "fog/2", "contrast/5", "contrast/2")
    found = load(tmp_path / "out", "test", domain="fog/2")
    # Folders come class by class.
    order = data.labels.argsort(stable=True) if size == 64 else torch.arange(7)
    assert torch.equal(found.labels, data.labels[order])
    assert torch.equal(found.images, corrupt(data.images, "fog", 2)[order])
    assert found.classes == ("a", "b")
    assert found.domain == "fog/2"
    flipped = min((tmp_path / "out").glob("contrast.npy" if size == 20 else "contrast/5/*/*"))
    damaged = bytearray(flipped.read_bytes())
    damaged[-9] ^= 1
    flipped.write_bytes(damaged)
    with pytest.raises(InputError, match=r"has changed, its checksum is not that of manifest.json"):
        load(tmp_path / "out", "test", domain="contrast/5")


@pytest.mark.parametrize("size", [20, 64])
def test_what_is_written_without_labels_can_be_loaded_as_images(tmp_path, size):
    images = labelled(size, count=3).images
    data = Images(images, ("a/x.jpg", "y.png", "z.png"))
    plan = CorruptionPlan(("fog",), (5, 2), image_format="png")
    write_corrupted(data, "photos", tmp_path / "out", plan)
    found = load_images(tmp_path / "out", domain="fog/2")
    assert torch.equal(found.images, corrupt(images, "fog", 2))
    with pytest.raises(InputError, match="has no labels, since it was made with --unlabelled"):
        load(tmp_path / "out", "test", domain="fog/2")


def test_images_without_labels_keep_their_paths(tmp_path):
    images = labelled(64, count=2).images
    data = Images(images, ("a/x.jpg", "y.png"))
    write_corrupted(data, "photos", tmp_path, CorruptionPlan(("fog",), (1,)))
    assert sorted(contents(tmp_path)) == ["fog/1/a/x.JPEG", "fog/1/y.JPEG", "manifest.json"]
    small = Images(labelled(20, count=2).images, ("a/x.jpg", "y.png"))
    write_corrupted(small, "photos", tmp_path / "npy", CorruptionPlan(("fog",), (1,)))
    assert sorted(contents(tmp_path / "npy")) == ["fog.npy", "manifest.json"]


@pytest.mark.parametrize("paths", [("../a.png", "b.png"), ("/a.png", "b.png"), ("a.x", "b.x")])
def test_paths_that_cannot_be_files_become_numbers(tmp_path, paths):
    data = Images(labelled(64, count=2).images, paths)
    write_corrupted(data, "odd", tmp_path / "out", CorruptionPlan(("fog",), (1,)))
    assert sorted(contents(tmp_path)) == [
        "out/fog/1/000000.JPEG",
        "out/fog/1/000001.JPEG",
        "out/manifest.json",
    ]


@pytest.mark.parametrize(
    "paths", [("é" * 126 + ".png", "b.png"), ("a.png", "a.JPEG/b.png")], ids=["long", "nested"]
)
def test_paths_that_a_disk_cannot_hold_become_numbers(tmp_path, paths):
    data = Images(labelled(64, count=2).images, paths)
    assert layouts.file_names(data, "jpeg") == ["000000.JPEG", "000001.JPEG"]


def test_names_of_any_bytes(tmp_path):
    data = Images(labelled(64, count=1).images, (os.fsdecode(b"a\xff.png"),))
    write_corrupted(
        data, "odd", tmp_path / "out", CorruptionPlan(("fog",), (1,), image_format="png")
    )
    found = load_images(tmp_path / "out", domain="fog/1")
    assert torch.equal(found.images, corrupt(data.images, "fog", 1))


def test_names_that_repeat_become_numbers():
    data = labelled(64, count=4)
    repeated = LabelledImages(
        data.images, data.labels, ("a/b", ".c"), "set", paths=("x/1.png",) * 4
    )
    assert layouts.file_names(repeated, "png") == [
        "a_b/000000.png",
        "c/000001.png",
        "a_b/000002.png",
        "c/000003.png",
    ]


def test_no_images_are_refused(tmp_path):
    nothing = Images(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), ())
    with pytest.raises(InputError, match="no images to corrupt"):
        write_corrupted(nothing, "nothing", tmp_path / "out", SMALL)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(InputError, match=r"cannot write .*: No space left on device"):
        write_corrupted(labelled(64), "set", tmp_path, SMALL)
    assert set(contents(tmp_path)) == {"manifest.json"}


def _write(out):
    torch.set_num_threads(1)
    write_corrupted(
        load("fashion-mnist-mini", "test"), "fashion", out, CorruptionPlan(PUBLISHED[:9])
    )


def _arrays(out):
    return {path.name for path in out.glob("*.npy") if not path.name.startswith(".")}


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_files(tmp_path):
    context = multiprocessing.get_context("spawn")
    _write(tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    chance = random.Random(0)
    for _ in range(3):
        before = _arrays(tmp_path / "out")
        process = context.Process(target=_write, args=(tmp_path / "out",))
        process.start()
        while process.is_alive() and _arrays(tmp_path / "out") == before:
            time.sleep(0.01)
        time.sleep(0.3 * chance.random())
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert set(contents(tmp_path / "out")) != set(expected)  # it was killed before the end
    _write(tmp_path / "out")
    assert contents(tmp_path / "out") == expected


IN_A_LOCALE = """
import sys
from acclimate.cli import main
from acclimate.data import load
for source, out in zip(sys.argv[1:], ("folder", "zip")):
    given = ["--corruptions", "fog", "--severities", "3", "--layout", "folders", "--out", out]
    main(["corrupt", source, *given])
    read = load(out, "test", domain="fog/3")
    print("read:", ascii(read.classes), len(read.images))
"""


def test_names_do_not_depend_on_the_locale(tmp_path):
    """Of classes and images that are not ASCII: the same bytes with an ASCII locale."""
    for name in ("grün", "a", "日本"):
        (tmp_path / "dät" / "test" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), (9, len(name), 3)).save(
            tmp_path / "dät" / "test" / name / "ü.png"
        )
    shutil.make_archive(str(tmp_path / "dät"), "zip", tmp_path / "dät")
    sources, written = ("dät", "dät.zip"), []
    for name, locale in (("utf8", "C.UTF-8"), ("ascii", "C")):
        place = tmp_path / name
        place.mkdir()
        for source in sources:
            (place / source).symlink_to(tmp_path / source)
        coerced = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        command = [sys.executable, "-c", IN_A_LOCALE, *sources]
        done = subprocess.run(command, cwd=place, env=os.environ | coerced, capture_output=True)
        assert done.returncode == 0, done.stderr
        read = [line for line in done.stdout.decode().splitlines() if line.startswith("read:")]
        assert read == 2 * [f"read: {('a', 'grün', '日本')!a} 3"]
        outs = (place / "folder", place / "zip")
        files = [path for out in outs for path in out.rglob("*") if path.is_file()]
        written.append({path.relative_to(place): path.read_bytes() for path in files})
    assert written[0] == written[1]
    assert {Path("folder/fog/3/grün/ü.JPEG"), Path("zip/fog/3/grün/ü.JPEG")} <= {*written[0]}
