import errno
import json
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from acclimate.bundle import Bundle
from acclimate.cli import main
from acclimate.storage import atomic

MODEL = ["--model", "acclimate:resnet8-w4"]
ONE = ["--epochs", "1"]


def save_pictures(folder, count, size=(16, 16)):
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(count)
    for number in range(count):
        pixels = generator.integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def save_damaged_bundles(saved, folder):
    for name in ("short", "flipped", "edited", "future", "weightless", "junk"):
        shutil.copytree(saved, folder / name)
    weights = (saved / "weights.safetensors").read_bytes()
    (folder / "short" / "weights.safetensors").write_bytes(weights[: len(weights) // 2])
    flipped = bytearray(weights)
    flipped[-5] ^= 1
    (folder / "flipped" / "weights.safetensors").write_bytes(flipped)
    text = (saved / "bundle.json").read_text()
    (folder / "edited" / "bundle.json").write_text(text.replace('"bee"', '"bef"'))
    record = json.loads(text) | {"schema": 99}
    (folder / "future" / "bundle.json").write_text(json.dumps(record))
    (folder / "weightless" / "weights.safetensors").unlink()
    (folder / "junk" / "bundle.json").write_bytes(b"\xff\x00{")


@pytest.fixture(scope="module")
def at(saved, tmp_path_factory):
    """Places with something wrong about most of them. Nothing may be written into them."""
    at = SimpleNamespace(root=tmp_path_factory.mktemp("places"), bundle=saved)
    for name in ("empty", "texts", "broken", "good", "flat", "labelled", "mixed", "wide"):
        setattr(at, name, at.root / name)
    for folder in (at.empty, at.texts, at.broken, at.root / "pair"):
        folder.mkdir()
    (at.texts / "readme.txt").write_text("no image")
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (64, 64), "red").save(at.broken / name)
        (at.broken / name).write_bytes((at.broken / name).read_bytes()[:300])
    save_pictures(at.good, 6)
    save_pictures(at.flat, 4)
    for name in ("cat", "dog"):
        save_pictures(at.labelled / "train" / name, 4)
        save_pictures(at.root / "test only" / "test" / name, 2)
    save_pictures(at.root / "one class" / "train" / "cat", 4)
    save_pictures(at.root / "single", 1)
    save_pictures(at.mixed, 3)
    Image.new("RGB", (20, 16)).save(at.mixed / "other.png")
    save_pictures(at.wide, 4, size=(24, 16))
    at.file = at.root / "file"
    at.file.write_text("a regular file")
    at.zip = at.root / "bad.zip"
    at.zip.write_bytes(b"PK\x03\x04 and no more")
    at.npy = at.root / "float.npy"
    np.save(at.npy, np.zeros((4, 16, 16, 3), np.float32))
    weights = Bundle.load(saved).classifier.state_dict()
    at.weights = at.root / "wide.safetensors"  # of resnet8-w8
    save_file(weights, at.weights)
    at.short = at.root / "short.safetensors"
    at.short.write_bytes(at.weights.read_bytes()[:1000])
    at.pickle = at.root / "weights.pth"
    torch.save({"model": weights, "config": Fraction(1, 3)}, at.pickle)
    at.names = at.root / "names.txt"
    at.names.write_text("one\ntwo\nthree\n")
    (at.root / "twice.txt").write_text("one\ntwo\nthree\none\n")
    at.bundles = at.root / "bundles"
    save_damaged_bundles(saved, at.bundles)
    at.out = at.root / "out"
    return at


def adapt(*options, images="good", bundle=None, out=None):
    def arguments(at):
        where = bundle and at.bundles / bundle
        target = out(at) if out else at.root / "out.csv"
        return ["adapt", where or at.bundle, at.root / images, "--out", target, *options]

    return arguments


def train(*options, data="labelled", out="out", model=MODEL):
    return lambda at: ["train", "--data", at.root / data, "--out", at.root / out, *model, *options]


def align(*options, images="flat", model="acclimate:resnet8-w8", weights="wide.safetensors"):
    def arguments(at):
        command = ["align", "--model", model, "--images", at.root / images, "--out", at.out]
        command += ["--weights", at.root / weights] if weights else []
        return [*command, *(str(at.root / o[1:]) if o.startswith("@") else o for o in options)]

    return arguments


def wrap(model):
    return lambda at: ["wrap", "--model", model, "--size", "16", "--out", at.out]


def corrupt(*options, data="good", out=("--out", "out")):
    def arguments(at):
        where = [out[0], at.root / out[1]] if out else []
        return ["corrupt", at.root / data, "--unlabelled", *where, *options]

    return arguments


def info(bundle):
    return lambda at: ["info", at.bundles / bundle]


BAD = {
    # Bundles
    "no bundle": (info("nowhere"), "does not exist"),
    "bundle is a file": (lambda at: ["info", at.file], "is no bundle"),
    "bundle is an empty folder": (lambda at: ["info", at.empty], "no bundle.json"),
    "bundle with half its weights": (info("short"), "checksum does not match"),
    "bundle with a flipped bit in its weights": (info("flipped"), "checksum does not match"),
    "bundle with an edited bundle.json": (info("edited"), "bundle.json is damaged"),
    "bundle with junk for bundle.json": (info("junk"), "bundle.json is damaged"),
    "bundle of the future": (info("future"), "upgrade acclimate"),
    "bundle without weights": (info("weightless"), "no weights.safetensors"),
    "a name too long for a file": (lambda at: ["info", "x" * 300], "too long"),
    "adapt with half the weights": (adapt(bundle="short"), "checksum does not match"),
    "adapt with a bundle of the future": (adapt(bundle="future"), "upgrade acclimate"),
    # Adapting
    "unknown method": (adapt("--method", "ctaa"), "unknown method 'ctaa': did you mean .*cta"),
    "steps for a method without": (adapt("--method", "aligned", "--steps", "1"), "steps to 0"),
    "no images": (adapt(images="nowhere"), "no folder or zip"),
    "an empty folder": (adapt(images="empty"), "no image in"),
    "a folder of texts": (adapt(images="texts"), "no image in"),
    "a folder of truncated images": (adapt(images="broken"), "none of the 2 images"),
    "images in a regular file": (adapt(images="file"), "neither a folder nor a .zip"),
    "a corrupt zip": (adapt(images="bad.zip"), "not a readable zip"),
    "batch 0": (adapt("--batch", "0"), "batch"),
    "batch -1": (adapt("--batch", "-1"), "batch"),
    "steps -1": (adapt("--steps", "-1"), "steps"),
    "learning rate NaN": (adapt("--update.learning-rate", "nan"), "learning_rate"),
    "learning rate -1": (adapt("--update.learning-rate", "-1"), "learning_rate"),
    "temperature 0 in adapting": (adapt("--objective.temperature", "0"), "temperature"),
    "prior -1": (adapt("--normalisation.prior", "-1"), "prior"),
    "parameters that are not there": (
        adapt("--update.parameters", "lora"),
        "no parameter .*'lora'",
    ),
    "parameters as a broken pattern": (adapt("--update.parameters", "("), "regular expression"),
    "predictions below a file": (adapt(out=lambda at: at.file / "x.csv"), "is no folder"),
    "predictions into a folder": (adapt(out=lambda at: at.empty), "is a folder"),
    # Training
    "unknown command": (lambda at: ["trian"], "unknown command 'trian': did you mean train"),
    "unknown data set": (
        lambda at: ["train", "--data", "cifar11", "--out", at.out],
        "did you mean .*cifar1",
    ),
    "cifar10 without root": (
        lambda at: ["train", "--data", "cifar10", "--out", at.out],
        "needs --root",
    ),
    "cifar10 in an empty root": (
        lambda at: ["train", "--data", "cifar10", "--root", at.empty, "--out", at.out],
        "download=True",
    ),
    "domain of a set without": (
        train("--domain", "fog/3", data="labelled"),
        r"has no domains, .*: leave 'fog/3' out",
    ),
    "pacs without root": (
        lambda at: ["train", "--data", "pacs", "--domain", "sketch", "--out", at.out],
        "pacs needs --root",
    ),
    "training on a set of tests": (
        lambda at: ["train", "--data", "cifar10-c", "--root", at.empty, "--out", at.out],
        "has no training images: use the split test, and train on cifar10",
    ),
    "training data missing": (train(data="no/where"), "no folder or zip"),
    "training data without labels": (train(data="flat"), "no images in a folder train"),
    "training data without a train split": (train(data="test only"), "no images in a folder train"),
    "training data of one class": (train(data="one class"), "at least 2 classes"),
    "training data in an array": (train(data="float.npy"), "has no labels"),
    "training data in a corrupt zip": (train(data="bad.zip"), "not a readable zip"),
    "size 0": (train("--size", "0"), "size is 0"),
    "size of a million": (train("--size", "1000000"), "size is 1000000"),
    "out exists": (train(out="empty"), "exists already"),
    "out below a file": (train(out="file/bundle"), "is no folder"),
    "unknown model": (train(model=["--model", "alexnet9"]), "unknown model"),
    "torchvision typo": (
        train(model=["--model", "torchvision:resnet81"]),
        "did you mean .*torchvision:resnet18",
    ),
    "a depth that is none": (train(model=["--model", "acclimate:resnet9"]), r"6n \+ 2"),
    "epochs -1": (train("--epochs", "-1"), "epochs"),
    "align.epochs -1": (train("--align.epochs", "-1"), r"align\.epochs"),
    "batch 0 in training": (train("--supervised.batch", "0"), r"supervised\.batch"),
    "learning rate -1 in training": (train("--align.learning-rate", "-1"), "learning_rate"),
    "learning rate NaN in training": (train("--align.learning-rate", "nan"), "learning_rate"),
    "weight decay of infinity": (train("--supervised.weight-decay", "inf"), "weight_decay"),
    "temperature 0 in training": (train("--contrastive-temperature", "0"), "temperature"),
    "temperature NaN in training": (train("--align-temperature", "nan"), "temperature"),
    "crop of nothing": (train("--views.smallest-crop", "0"), "smallest_crop"),
    "probability 2": (train("--views.grey-probability", "2"), "grey_probability"),
    "padding -1": (train("--crop-padding", "-1"), "crop_padding"),
    "cutout -1": (train("--cutout", "-1"), "cutout"),
    "label smoothing 2": (train("--label-smoothing", "2"), "label_smoothing"),
    # Aligning
    "weights missing": (align(weights="nowhere.safetensors"), "no file with weights"),
    "weights in a pickle": (
        align(weights="weights.pth"),
        "holds more than tensors .fractions.Fraction.",
    ),
    "an entry that is not there": (align(weights="wide.safetensors:ema"), "has no entry 'ema'"),
    "weights cut short": (align(weights="short.safetensors"), "cannot be read"),
    "weights of another width": (align(model="acclimate:resnet8-w4"), "does not fit"),
    "weights of another network": (align(model="torchvision:resnet18"), "does not fit"),
    "images of different sizes": (align(images="mixed"), "pass --size"),
    "images to align on missing": (align(images="nowhere"), "no such folder|no folder or zip"),
    "images to align on truncated": (align(images="broken"), "none of the 2 images"),
    "an array of floats": (align(images="float.npy"), "must be uint8"),
    "images of a domain that is missing": (
        lambda at: [
            *("align", *MODEL, "--images", "pacs", "--root", at.good),
            *("--domain", "sketch", "--out", at.out),
        ],
        "holds no domain of pacs: get it via https",
    ),
    "a single image": (align(*ONE, images="single"), "two images"),
    "class names too few": (align("--class-names", "@names.txt"), "3 class names"),
    "a class name twice": (align("--class-names", "@twice.txt"), "'one' names the outputs 0 and 3"),
    "class names missing": (align("--class-names", "@nowhere.txt"), "cannot be read"),
    "twin of another feature size": (
        align(*ONE, "--twin", "acclimate:resnet8-w4"),
        "same feature size",
    ),
    "interpolation above 1": (align("--interpolation", "1.5"), "interpolation must be"),
    "mean NaN": (align("--mean", "nan", "0", "0", "--std", "1", "1", "1"), "preprocessing"),
    "standard deviation 0": (
        align("--mean", "0", "0", "0", "--std", "0", "1", "1"),
        "preprocessing",
    ),
    "two means": (align("--mean", "0.5", "0.5", "--std", "1", "1", "1"), "2 means and 3 standard"),
    "a resize of 0": (align("--resize", "0"), "preprocessing"),
    "a network of another image size": (
        align(*ONE, "--size", "16", model="timm:vit_tiny_patch16_224", weights=None),
        "does not accept images of 16 pixels",
    ),
    # Wrapping
    "random weights": (wrap("acclimate:resnet8-w8"), "has random weights"),
    "wrap no folder": (wrap("hf:nowhere"), "models are not downloaded"),
    "wrap a model of the Hub": (wrap("timm:hf_hub:timm/resnet18"), "models are not downloaded"),
    "wrap code": (wrap("os.path:join"), "is code: join of the module os.path would be run"),
    "wrap without a size": (
        lambda at: ["wrap", "--model", "x.py:f", "--size", "0", "--out", at.out],
        "size",
    ),
    # Corrupting
    "corrupt without saying into what": (corrupt(out=None), "--out .* --preview"),
    "an unknown corruption": (corrupt("--corruptions", "fgo"), "'fgo': did you mean fog"),
    "a corruption twice": (corrupt("--corruptions", "fog", "fog"), "none twice"),
    "severity 6": (corrupt("--severities", "6"), "severity 6 does not exist"),
    "corrupt no images": (corrupt(data="empty"), "no image in"),
    "corrupt truncated images": (corrupt(data="broken"), "none of the 2 images"),
    "corrupt a corrupt zip": (corrupt(data="bad.zip"), "not a readable zip"),
    "corrupt images of different sizes": (corrupt(data="mixed"), "pass --size"),
    "corrupt into a foreign folder": (
        corrupt(data="flat", out=("--out", "good")),
        "no corrupted data set",
    ),
    "corrupt into a file": (corrupt(out=("--out", "file")), "no corrupted data set"),
    "corrupt below a file": (corrupt(out=("--out", "file/x")), "is no folder"),
    "corrupt into the images": (
        corrupt(out=("--out", "good/x")),
        "is inside .*choose an --out outside",
    ),
    "corrupt an unknown data set": (
        lambda at: ["corrupt", "cifar100c", "--out", at.out],
        "did you mean .*cifar100",
    ),
    "a preview that is no picture": (corrupt(out=("--preview", "p.txt")), "must end in .png"),
    # Quickstart
    "quickstart on no image": (lambda at: ["quickstart", "--images", "0"], "1..2000"),
    "quickstart on too many images": (lambda at: ["quickstart", "--images", "2001"], "1..2000"),
    "quickstart into a file": (lambda at: ["quickstart", "--out", at.file], "something else"),
    "quickstart into a foreign folder": (
        lambda at: ["quickstart", "--out", at.good],
        "something else",
    ),
    "quickstart below a file": (
        lambda at: ["quickstart", "--out", at.file / "deep" / "er"],
        "cannot write|no folder",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_sentence(case, at, capsys):
    make, expected = BAD[case]
    before = sorted(at.root.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in make(at)])
    assert stop.value.code == 2
    check_message(capsys.readouterr().err, expected)
    assert sorted(at.root.rglob("*")) == before


def check_message(said, expected):
    assert "Traceback" not in said
    lines = said.splitlines()
    (sentence,) = [line for line in lines if line.startswith("acclimate:")]
    assert sentence == lines[-1]
    assert re.search(expected, sentence)
    assert sentence[-1] in ".?"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["adapt"],
        ["adapt", "bundle", "images"],
        ["adapt", "bundle", "images", "--out", "x.csv", "--update", "adamw"],
        ["adapt", "bundle", "images", "--out", "x.csv", "--steps", "two"],
        ["train", "--data", "x", "--out", "y", "--preset", "papre"],
        ["train", "--data", "x", "--out", "y", "--epochs", "some"],
        ["train", "--data", "x", "--out", "y", "--no-such-option", "1"],
        ["align", "--images", "x", "--out", "y"],
        ["info"],
        ["--no-such-option"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_parsed_ends_in_code_2(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.strip()
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "make",
    [adapt(), train(*ONE), corrupt(out=("--preview", "p.png"))],
    ids=["predictions", "bundle", "preview"],
)
def test_a_full_disk_ends_in_one_sentence(make, at, capsys, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "sync", full)
    before = {path for path in at.root.rglob("*") if not path.name.endswith(".stages")}
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in make(at)])
    assert stop.value.code == 2
    check_message(capsys.readouterr().err, "cannot write .*: No space left on device; free some")
    left = {path for path in at.root.rglob("*") if not path.name.endswith(".stages")}
    assert left == before  # no half of a file
    shutil.rmtree(at.root / "out.stages", ignore_errors=True)


@pytest.mark.parametrize(
    "case",
    ["no bundle"]
    + [
        pytest.param(x, marks=pytest.mark.slow) for x in ("unknown command", "bundle of the future")
    ],
)
def test_the_same_in_a_process_of_its_own(case, at):
    make, expected = BAD[case]
    command = [sys.executable, "-c", "from acclimate.cli import main; main()"]
    done = subprocess.run(
        [*command, *map(str, make(at))], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert done.stdout == ""
    check_message(done.stderr, expected)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "memory ran out;"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB."), "2.50 GiB"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate "
                "memory: you tried to allocate 26000000000 bytes."
            ),
            "26.0 GB",
        ),
    ],
)
@pytest.mark.parametrize("verb", ["adapt", "align"])
def test_too_little_memory_is_one_sentence(at, capsys, monkeypatch, verb, error, said):
    def fail(*given, **named):
        raise error

    monkeypatch.setattr("acclimate.adapt.adapter.Adapter._answers", fail)
    monkeypatch.setattr("acclimate.source.aligned.align", fail)
    commands = {
        "adapt": ["adapt", str(at.bundle), str(at.good), "--out", str(at.root / "new.csv")],
        "align": ["align", *MODEL, "--images", str(at.good), "--out", str(at.root / "new")],
    }
    with pytest.raises(SystemExit) as stopped:
        main(commands[verb])
    text = capsys.readouterr().err
    assert stopped.value.code == 2
    assert text.startswith("acclimate: memory ran out") and said in text and "smaller" in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("flag", ["--memory-limit", "--memory"])
def test_a_memory_limit_is_taken_or_refused_with_a_sentence(at, capsys, flag):
    out = at.root / f"limited{flag}.csv"
    given = ["adapt", str(at.bundle), str(at.good), "--out", str(out)]
    main([*given, flag, "50GB"])
    assert out.exists()
    out.unlink()
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([*given, flag, "1MB"])
    text = capsys.readouterr().err
    assert stopped.value.code == 2 and "choose" in text and len(text.splitlines()) == 1
    assert not out.exists()
