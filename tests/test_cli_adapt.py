import csv
import os
import stat
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from acclimate.cli import main


@pytest.fixture
def photos(tmp_path):
    """Six images in two folders, and other files."""
    for number in range(6):
        place = tmp_path / "photos" / ("a" if number < 3 else "b")
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    (tmp_path / "photos" / "notes.txt").write_text("x")
    (tmp_path / "photos" / "logo.svg").write_text("x")
    return tmp_path / "photos"


def said(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_what_the_user_may_not_expect_is_said_once(saved, photos, tmp_path, capsys):
    adapt = ["adapt", str(saved), str(photos), "--out", str(tmp_path / "x.csv")]
    main([*adapt, "--method", "tent", "--batch", "2"])
    text = said(capsys)
    assert "not looked at, since they are no images: 1 .txt" in text
    assert text.count("in 2 folders and are taken in path order") == 1 and "--shuffle" in text
    assert "skipped logo.svg: files that end in .svg are not read" in text
    assert "warning" not in text
    main([*adapt, "--method", "tent", "--batch", "2", "--shuffle"])
    assert "path order" not in said(capsys)
    main([*adapt, "--method", "ptbn", "--batch", "1"])
    assert said(capsys).count("batch norm statistics of one image") == 1
    for more in (["ptbn", "--normalisation.prior", "16"], ["source"]):
        main([*adapt, "--batch", "1", "--method", *more])
        assert "warning" not in said(capsys)


def test_what_cannot_be_written_is_noticed_before_the_bundle_is_loaded(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file" / "x.csv", tmp_path / ("x" * 256), tmp_path):
        with pytest.raises(SystemExit) as stop:
            main(["adapt", "no-bundle", "no-photos", "--out", str(out), "--method", "source"])
        assert stop.value.code == 2
        assert "no-bundle" not in capsys.readouterr().err


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX"}])
def test_any_name_in_any_locale(saved, tmp_path, environment):
    """Without Python's own remedies, as in programs that embed it."""
    photos = tmp_path / "photos"
    photos.mkdir()
    names = [b"caf\xe9.png", "gr\u00fcn.png".encode(), b"new\nline.png"]
    for name in names:
        with open(os.path.join(os.fsencode(photos), name), "wb") as file:  # noqa: PTH118, PTH123
            Image.new("RGB", (16, 16)).save(file, "PNG")
    with open(os.path.join(os.fsencode(photos), b"bad\xe9.png"), "wb"):  # noqa: PTH118, PTH123
        pass
    plain = {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", **environment}
    command = [sys.executable, "-m", "acclimate", "adapt", saved, photos, "--out", "o.csv"]
    done = subprocess.run(
        [*command, "--method", "source"], cwd=tmp_path, env=os.environ | plain, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert b"skipped bad\\udce9.png: it is not an image" in done.stdout
    with (tmp_path / "o.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        paths = [row["path"].encode("utf-8", "surrogateescape") for row in csv.DictReader(file)]
    assert sorted(paths) == sorted([*names, b"bad\xe9.png"])


@pytest.mark.parametrize("out", ["-", pytest.param("/dev/stdout", marks=pytest.mark.slow)])
def test_answers_on_standard_output_alone(saved, photos, tmp_path, out):
    command = [sys.executable, "-m", "acclimate", "adapt", saved, photos, "--method", "source"]
    done = subprocess.run([*command, "--out", out], capture_output=True, text=True, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == [photos]
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert len(rows) == 7 and all(row["prediction"] or row["skipped"] for row in rows)
    assert "6 answers" in " ".join(done.stderr.split())
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)  # noqa: PTH116


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--data", "x", "--out", "-"],
        ["align", "--model", "m", "--images", "x", "--out", "-"],
        ["wrap", "--model", "m", "--out", "-"],
        ["corrupt", "x", "--out", "-"],
        ["corrupt", "x", "--preview", "-"],
        ["bench", "b", "--data", "x", "--out", "-"],
        ["analyse", "tsne", "b", "--data", "x", "--out", "-"],
        ["quickstart", "--out", "-"],
    ],
    ids=" ".join,
)
def test_folders_and_pictures_do_not_go_to_standard_output(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "cannot be written to standard output; give a path as --" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["train", "align"])
def test_one_run_makes_a_bundle(verb, data, tmp_path, capsys):
    from acclimate.storage.atomic import only_writer

    out = tmp_path / "b"
    images = {"train": ["--data"], "align": ["--model", "acclimate:resnet8-w4", "--images"]}[verb]
    with only_writer(tmp_path / "b.stages"), pytest.raises(SystemExit) as stop:
        main([verb, *images, str(data), "--out", str(out)])
    assert stop.value.code == 2
    assert "another run is writing" in " ".join(capsys.readouterr().err.split())
    out.symlink_to("nowhere")
    with pytest.raises(SystemExit):
        main([verb, *images, str(data), "--out", str(out)])
    assert "exists already" in " ".join(capsys.readouterr().err.split())
