import csv
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from acclimate.adapt import answers_file as module
from acclimate.adapt.answers_file import AnswersFile
from acclimate.adapt.folder import Answer, adapt_folder
from acclimate.errors import InputError, Interrupted
from acclimate.methods import METHODS, changed

NEVER = changed(METHODS["tent"].settings, {"reset": "never", "update.learning_rate": 1e-2})
RECENT = changed(NEVER, {"memory": "recent"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """23 images in two folders, of which one is damaged, and one file that is no image."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for number in range(23):
        place = folder / ("a" if number < 11 else "b")
        place.mkdir(exist_ok=True)
        pixels = generator.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    (folder / "a" / "5.png").write_bytes(b"no image")
    (folder / "a" / "x.svg").write_text("<svg/>")
    return folder


def run(bundle, images, out, stop_after=None, told=None, **options):
    """Answer a folder into a file; as if Ctrl-C came while a batch is learned from."""
    options = {"batch": 4, "method": "tent", "settings": NEVER} | options
    with AnswersFile(out, tell=told.append if told is not None else lambda _: None) as file:
        for number, answer in enumerate(adapt_folder(bundle, images, checkpoints=file, **options)):
            file.write(answer)
            if number == stop_after:
                os.kill(os.getpid(), signal.SIGINT)
        file.finish()
    return file


def rows(path):
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("settings", "shuffle", "stop"),
    [(NEVER, False, 0), (NEVER, True, 9), (RECENT, False, 9), (RECENT, True, 22)],
)
def test_an_interrupted_run_goes_on_to_the_same_file(
    bundle, folder, tmp_path, settings, shuffle, stop
):
    options = {"settings": settings, "shuffle": shuffle}
    run(bundle, folder, tmp_path / "whole.csv", **options)
    out, told = tmp_path / "out.csv", []
    with pytest.raises(Interrupted, match=r"of 24 images are done, in .*out.csv.partial; run the"):
        run(bundle, folder, out, stop_after=stop, **options)
    assert not out.exists() and (tmp_path / "out.csv.partial").stat().st_size
    file = run(bundle, folder, out, told=told, **options)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert (file.tally.answered, file.tally.skipped) == (22, 2)
    assert len(told) == 1 and told[0].startswith("going on after the first ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "whole.csv"]


def test_shuffled_answers_are_others_in_the_same_order(bundle, folder, tmp_path):
    run(bundle, folder, tmp_path / "a.csv")
    run(bundle, folder, tmp_path / "b.csv", shuffle=True)
    first, second = rows(tmp_path / "a.csv"), rows(tmp_path / "b.csv")
    assert [row["path"] for row in first] == [row["path"] for row in second]
    assert [row["confidence"] for row in first] != [row["confidence"] for row in second]
    assert [row["frozen_prediction"] for row in first] == [
        row["frozen_prediction"] for row in second
    ]


def test_a_crash_loses_what_came_after_the_last_state(bundle, folder, tmp_path, monkeypatch):
    """Half a row and a whole batch are behind the state: both are answered again."""
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    monkeypatch.setattr(module, "_SHARE", 1e9)
    run(bundle, folder, tmp_path / "whole.csv")
    out = tmp_path / "out.csv"
    stream = None
    with pytest.raises(RuntimeError), AnswersFile(out) as file:
        stream = adapt_folder(
            bundle, folder, checkpoints=file, batch=4, method="tent", settings=NEVER
        )
        for number, answer in enumerate(stream):
            file.write(answer)
            if number == 10:
                raise RuntimeError("a bug")
    with (tmp_path / "out.csv.partial").open("ab") as partial:
        partial.write(b"b/12.png,an")
    run(bundle, folder, out)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_another_run_is_not_mixed_in(bundle, folder, tmp_path):
    out = tmp_path / "out.csv"
    with pytest.raises(Interrupted):
        run(bundle, folder, out, stop_after=9)
    before = (tmp_path / "out.csv.partial").read_bytes()
    others = {
        "batch": {"batch": 5},
        "settings": {"settings": changed(NEVER, {"seed": 1})},
        "method, settings": {"method": "source", "settings": None},
        "order": {"shuffle": True},
    }
    for names, options in others.items():
        with pytest.raises(InputError, match=f"a run with other .*{names}.*; choose another"):
            run(bundle, folder, out, **options)
        assert (tmp_path / "out.csv.partial").read_bytes() == before
    with pytest.raises(InputError, match="batch must be"):
        run(bundle, folder, out, batch=0)
    with pytest.raises(InputError, match="no folder or zip"):
        run(bundle, tmp_path / "nowhere", out)
    assert (tmp_path / "out.csv.partial").read_bytes() == before
    run(bundle, folder, out)
    assert len(rows(out)) == 24


def test_a_changed_image_is_another_run(bundle, tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(6):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    with pytest.raises(Interrupted):
        run(bundle, tmp_path / "images", tmp_path / "o.csv", stop_after=1, batch=2)
    Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / "images" / "0.png")
    with pytest.raises(InputError, match="a run with other images"):
        run(bundle, tmp_path / "images", tmp_path / "o.csv", batch=2)


def test_a_file_of_the_users_is_not_overwritten(bundle, folder, tmp_path):
    (tmp_path / "out.csv.partial").write_text("my notes")
    with pytest.raises(InputError, match="is something else"):
        run(bundle, folder, tmp_path / "out.csv")
    assert (tmp_path / "out.csv.partial").read_text() == "my notes"


def test_answers_without_a_state_are_answered_anew_and_said(bundle, folder, tmp_path):
    told = []
    with pytest.raises(Interrupted):
        run(bundle, folder, tmp_path / "out.csv", stop_after=9)
    (tmp_path / "out.csv.partial.state").unlink()
    run(bundle, folder, tmp_path / "out.csv", told=told)
    assert len(told) == 1 and "has no complete state" in told[0]
    assert len(rows(tmp_path / "out.csv")) == 24


def test_one_writer_at_a_time(bundle, folder, tmp_path):
    (tmp_path / "link.csv").symlink_to("out.csv")
    with AnswersFile(tmp_path / "out.csv"):
        for name in ("out.csv", "link.csv"):
            with pytest.raises(InputError, match="another run is writing"):
                AnswersFile(tmp_path / name).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["link.csv"]


def test_a_pipe_gets_the_answers_as_they_come(bundle, folder, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    run(bundle, folder, tmp_path / "pipe")
    reader.join(10)
    run(bundle, folder, tmp_path / "whole.csv")
    assert got == [(tmp_path / "whole.csv").read_bytes()]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pipe", "whole.csv"]


def test_a_reader_that_goes_away_ends_in_a_sentence(bundle, folder, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = threading.Thread(target=lambda: (tmp_path / "pipe").open("rb").close())
    reader.start()
    with pytest.raises(InputError, match=r"cannot write .*Broken pipe"):
        run(bundle, folder, tmp_path / "pipe", batch=1)
    reader.join(10)


def test_the_old_answers_stay_until_the_new_are_complete(bundle, folder, tmp_path):
    (tmp_path / "out.csv").write_text("old")
    with pytest.raises(Interrupted):
        run(bundle, folder, tmp_path / "out.csv", stop_after=9)
    assert (tmp_path / "out.csv").read_text() == "old"


def test_nothing_is_left_where_nothing_could_be_answered(bundle, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"none of the 1 images .*; a.png: it is not an image"):
        run(bundle, tmp_path / "images", tmp_path / "o.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_rows_survive_any_name(tmp_path):
    names = ["a,b", 'q"q', "new\nline", "cr\r", "\r\n", os.fsdecode(b"\xff\xfe.png"), " ", "ü 🙂"]
    module.atomic.write_text(tmp_path / "x", "")
    path = tmp_path / "names.csv"
    from acclimate.adapt.folder import write_predictions

    write_predictions((Answer(name, skipped="it is bad.") for name in names), path)
    assert [row["path"] for row in rows(path)] == names
    assert b"\xff\xfe.png" in path.read_bytes()


COMMAND = [sys.executable, "-m", "acclimate", "adapt"]


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_the_command_goes_on_after_a_signal(saved, tmp_path, number):
    images = tmp_path / "images"
    images.mkdir()
    for seed in range(60):
        pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(images / f"{seed}.png")
    out = tmp_path / "out.csv"
    command = [*COMMAND, saved, images, "--out", out, "--batch", "1", "--method", "cta"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        partial = tmp_path / "out.csv.partial"
        while not (partial.exists() and partial.read_bytes().count(b"\n") > 3):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 128 + number
    assert "acclimate: interrupted; " in said and "run the same command again" in said
    assert not out.exists()
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert "going on after the first" in done.stdout
    assert [row["path"] for row in rows(out)] == [f"{seed}.png" for seed in range(60)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out.csv"]
