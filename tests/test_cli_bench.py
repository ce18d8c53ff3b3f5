import base64
import csv
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acclimate.cli import main
from acclimate.evaluate import workplace
from acclimate.evaluate.results import TIMINGS
from acclimate.evaluate.variant import Variant
from acclimate.runtime import workers
from acclimate.storage.atomic import only_writer

CLASSES = ("ant", "bee", "cat", "dog")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """``test/class/image``: 24 pictures of 16 pixels, each class of its own brightness."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    generator = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (folder / "test" / name).mkdir(parents=True)
        for picture in range(6):
            pixels = generator.integers(40 * number, 40 * number + 100, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "test" / name / f"{picture}.png")
    return folder


@pytest.fixture
def bench(saved, data, monkeypatch, capsys):
    """Run the command in this process; what it said."""
    monkeypatch.setattr(workers, "processes", lambda *numbers: workers.here)

    def bench(out, *options, bundles=(saved,)):
        main(["bench", *map(str, bundles), "--data", str(data), "--out", str(out), *options])
        return " ".join(capsys.readouterr().out.split())

    return bench


STILL = "cta:update.learning_rate=0"
FEW = ("--corruptions", "none", "contrast", "--batch", "10")


def rows(out):
    """The lines of results.csv without what differs from run to run."""
    with (out / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    return [{name: row[name] for name in row if name not in TIMINGS} for row in lines]


def test_a_table_a_file_and_the_way_to_it(bench, tmp_path):
    said = bench(tmp_path / "out", *FEW, "--methods", "source", "ptbn", "--images", "12")
    found = rows(tmp_path / "out")
    assert [(row["method"], row["corruption"]) for row in found] == [
        ("source", "none"), ("source", "contrast"), ("ptbn", "none"), ("ptbn", "contrast"),
    ]  # fmt: skip
    assert {row["n_images"] for row in found} == {"12"}
    assert {row["bundle"] for row in found} == {"bundle"}
    for row in found:
        assert f"{100 * float(row['accuracy']):.1f}" in said
    assert "pictures, severity 5, shuffled, batches of 10: accuracy, %" in said
    assert "results are in" in said and "failed" not in said


def test_names_that_are_no_utf8_are_measured_and_reported(tmp_path, bundle_of):
    """Of bundle, data, classes and images; in the page, its figures and its downloads."""
    classes = ("a", "b", os.fsdecode(b"caf\xe9"), "gr\u00fcn")
    data = tmp_path / os.fsdecode(b"d\xe9ta")
    for name in classes:
        (data / "test" / name).mkdir(parents=True)
        with (data / "test" / name / os.fsdecode(b"\xe9.png")).open("wb") as file:
            Image.new("RGB", (16, 16)).save(file, "PNG")
    bundles = [tmp_path / os.fsdecode(name) for name in (b"one\xe9", b"two\xe9")]
    for path in bundles:
        replace(bundle_of("source"), classes=classes).save(path)
    out, given = tmp_path / "grid", ("--corruptions", "fog", "--workers", "1")
    methods = ("--methods", "source", "ptbn")
    main(["bench", *map(str, bundles), "--data", str(data), "--out", str(out), *given, *methods])
    main(["report", str(out), "--title", os.fsdecode(b"t\xe9")])
    page = (out / "report.html").read_bytes().decode("utf-8")
    assert r"<title>t\xe9" in page and r"ptbn · two\xe9" in page and r"d\xe9ta" in page
    assert r"\\xe9" in page and r"\udce9" not in page  # in a figure's JSON
    texts = re.findall(r"data:text/plain;charset=utf-8;base64,([\w+/=]+)", page)
    assert texts and all(base64.b64decode(text).decode("utf-8") for text in texts)


def test_variants_are_measured_and_reported(bench, tmp_path):
    """``ptbn`` with a prior, the best of its kind, end to end from the command line."""
    prior = "ptbn:normalisation.prior=256"
    said = bench(tmp_path / "out", *FEW, "--methods", "source", "ptbn", prior, "--images", "12")
    assert prior in said
    found = {(row["method"], row["corruption"]): row for row in rows(tmp_path / "out")}
    assert {method for method, _ in found} == {"source", "ptbn", prior}
    assert found[prior, "contrast"]["nll"] != found["ptbn", "contrast"]["nll"]
    main(["report", str(tmp_path / "out")])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "normalisation.prior = 256" in page
    command = [sys.executable, "-m", "acclimate", "report", tmp_path / "out", "--out", "-"]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, check=True)
    assert done.stdout.decode("utf-8") == page
    assert b"open /dev/stdout" in done.stderr


def test_small_batches_are_warned_of(bench, tmp_path):
    said = bench(tmp_path, "--corruptions", "none", "--batch", "1", "--methods", "ptbn")
    assert "warning: ptbn: 1 image is too few for statistics of the batch" in said


def test_a_table_for_each_order(bench, tmp_path):
    orders = ("--orders", "shuffled", "continual", "growing-noise")
    names = ("--corruptions", "gaussian_noise", "fog", "--methods", "ptbn")
    said = bench(tmp_path, *names, *orders)
    assert all(f", {order}, batches of 128: accuracy" in said for order in orders[1:])
    assert len(rows(tmp_path)) == 5


def test_a_plan_says_what_is_left_and_measures_nothing(bench, tmp_path, monkeypatch):
    def never(*arguments, **named):
        raise AssertionError("measured")

    with monkeypatch.context() as patch:
        patch.setattr(workplace, "measure", never)
        said = bench(tmp_path, *FEW, "--methods", "source", "ptbn", "--plan", "--workers", "3")
    assert "source 2 0 48" in said
    assert "in 3 processes 96" in said
    assert not (tmp_path / "results.csv").exists()
    bench(tmp_path, *FEW, "--methods", "source")
    said = bench(tmp_path, *FEW, "--methods", "source", "ptbn", "--plan")
    assert "source 2 2 0 0 s" in said
    assert "ptbn 2 0 48" in said


def test_a_failure_is_told_and_ends_in_code_1(bench, tmp_path, monkeypatch, capsys):
    works = workplace.measure

    def fails(bundle, variant, *arguments, **named):
        if variant == Variant("ptbn"):
            raise RuntimeError("no luck [here]")
        return works(bundle, variant, *arguments, **named)

    monkeypatch.setattr(workplace, "measure", fails)
    with pytest.raises(SystemExit) as stop:
        bench(tmp_path, "--corruptions", "none", "--methods", "source", "ptbn")
    assert stop.value.code == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "failed: bundle ptbn on none 0, shuffled, seed 0: RuntimeError: no luck [here]" in said
    assert [row["method"] for row in rows(tmp_path)] == ["source"]


def test_bundles_of_several_recipes(bench, bundle_of, saved, tmp_path):
    bundle_of("clust3").save(tmp_path / "clust3")
    chosen = ("--methods", "source", STILL, "clust3")
    bench(
        tmp_path / "out", *chosen, "--corruptions", "none", "--no-curve",
        bundles=(saved, tmp_path / "clust3"),
    )  # fmt: skip
    assert [(row["method"], row["bundle"]) for row in rows(tmp_path / "out")] == [
        ("source", "bundle"), ("source", "clust3"), ("clust3", "clust3"), (STILL, "bundle"),
    ]  # fmt: skip
    assert {row["oracle_steps"] for row in rows(tmp_path / "out")} == {""}


BAD = {
    "an address of ray for processes": (
        ["@bundle", "--ray-address", "auto"],
        "--ray-address is for",
    ),
    "no bundle": ([], "there is no bundle; make one with acclimate train"),
    "missing bundle": (["@nowhere"], "nowhere does not exist"),
    "bundle is a file": (["@file"], "is no bundle"),
    "two bundles of one name": (["@bundle", "@deeper/bundle"], "the same name; rename a folder"),
    "missing data": (["@bundle", "--data", "@nowhere"], "nowhere"),
    "data without tests": (["@bundle", "--data", "@empty"], "no images|no image"),
    "data of other classes": (
        ["@bundle", "--data", "fashion-mnist-mini"],
        "answers with 4 classes, .* but fashion-mnist-mini has 10, ",
    ),
    "unknown corruption": (["@bundle", "--corruptions", "fogg"], "'fogg': did you mean fog"),
    "unknown order": (["@bundle", "--orders", "shufled"], "'shufled': did you mean shuffled"),
    "unknown method": (["@bundle", "--methods", "ctaa"], "'ctaa': did you mean cta"),
    "unknown setting": (["@bundle", "--methods", "cta:rate=1"], "unknown setting 'rate'"),
    "no value": (["@bundle", "--methods", "cta:steps"], "'cta:steps' is no variant of a method"),
    "impossible value": (["@bundle", "--methods", "cta:steps=-1"], "steps must be a whole number"),
    "value of another kind": (
        ["@bundle", "--methods", "cta:update.learning_rate=fast"],
        "update.learning_rate must be a number, not 'fast'",
    ),
    "method that fits no bundle": (["@bundle", "--methods", "clust3"], "made for cta, not for"),
    "order that fits no corruption": (
        ["@bundle", "--corruptions", "fog", "--orders", "growing-noise"],
        "'growing-noise' needs a corruption, such as",
    ),
    "severity 6": (["@bundle", "--severities", "6"], "severity 6 does not exist"),
    "severity 0": (["@bundle", "--severities", "0"], "severity 0 does not exist"),
    "no seeds": (["@bundle", "--seeds"], "there are no seeds; give at least one"),
    "no corruptions": (["@bundle", "--corruptions"], "there are no corruptions"),
    "no orders": (["@bundle", "--orders"], "there are no orders"),
    "workers 0": (["@bundle", "--workers", "0"], "workers is 0: give at least 1"),
    "threads 0": (["@bundle", "--threads", "0"], "threads is 0: give at least 1"),
    "images 0": (["@bundle", "--images", "0"], "images is 0: give at least 1"),
    "images -3": (["@bundle", "--images", "-3"], "images is -3: give at least 1"),
    "batch 0": (["@bundle", "--batch", "0"], "batch is 0"),
    "size 0": (["@bundle", "--size", "0"], "size is 0"),
    "out is a file": (["@bundle", "--out", "@file"], "cannot write .*file"),
    "out below a file": (["@bundle", "--out", "@file/x"], "cannot write .*file"),
    "out is being written": (["@bundle", "--out", "@busy"], "another run is writing .*busy"),
    "a store that is none": (["@bundle", "--out", "@text"], "cells.sqlite is damaged"),
    "a damaged manifest": (["@bundle", "--out", "@manifest"], "manifest.json is damaged"),
}


@pytest.fixture(scope="module")
def at(saved, tmp_path_factory):
    """Places with something wrong about most of them. Nothing may be written into them."""
    at = tmp_path_factory.mktemp("places")
    shutil.copytree(saved, at / "bundle")
    shutil.copytree(saved, at / "deeper" / "bundle")
    (at / "file").write_text("a regular file")
    for name in ("empty", "busy", "text", "manifest"):
        (at / name).mkdir()
    (at / "text" / "cells.sqlite").write_text("dear reader, " * 100)
    (at / "manifest" / "manifest.json").write_text("{")
    with only_writer(at / "busy"):
        yield at


@pytest.mark.parametrize("plan", [False, True], ids=["run", "plan"])
@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_sentence(case, plan, at, data, capsys):
    given, expected = BAD[case]
    if plan and case == "a damaged manifest":
        pytest.skip("a plan reads none")
    given = [str(at / word[1:]) if word.startswith("@") else word for word in given]
    for option, value in (("--data", data), ("--out", at / "out")):
        given += [] if option in given else [option, str(value)]
    before = {path: path.is_file() and path.read_bytes() for path in at.rglob("*")}
    with pytest.raises(SystemExit) as stop:
        main(["bench", *given, *(["--plan"] if plan else [])])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (sentence,) = [line for line in said.splitlines() if line.startswith("acclimate:")]
    assert said.endswith(f"{sentence}\n")
    assert re.search(expected, sentence)
    assert sentence[-1] in ".?"
    after = {path: path.is_file() and path.read_bytes() for path in at.rglob("*")}
    assert after == before


COMMAND = [sys.executable, "-c", "from acclimate.cli import main; main()", "bench"]


def finished(store):
    """How many tasks a store has the cells of."""
    if not store.exists():
        return 0
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as base:
        try:
            ((count,),) = base.execute("SELECT count(*) FROM tasks")
        except sqlite3.OperationalError:  # no tables yet
            count = 0
    base.close()
    return count


@pytest.mark.slow
def test_killed_ten_times_it_ends_in_the_same_results(saved, data, tmp_path):
    """Killed at random moments, with one worker or two; no worker outlives its driver."""
    moments = random.Random(0)
    grid = [*map(str, (saved, "--data", data)), "--methods", "source", "cta", STILL]
    grid += ["--corruptions", "none", "contrast", "snow", "fog", "--batch", "12"]
    grid += ["--seeds", *"01234", "--orders", "shuffled", "mixed"]
    started = {"env": os.environ | {"GRID": str(tmp_path)}, "stderr": subprocess.DEVNULL}
    started["stdout"] = subprocess.DEVNULL

    def command(out, workers):
        return [*COMMAND, *grid, "--out", str(tmp_path / out), "--workers", str(workers)]

    assert subprocess.run(command("whole", 2), **started).returncode == 0
    total = finished(tmp_path / "whole" / "cells.sqlite")
    killed = tmp_path / "killed" / "cells.sqlite"
    for attempt in range(10):
        goal = min(finished(killed) + moments.choice([0, 1, 3]), total - 1)
        driver = subprocess.Popen(command("killed", 1 + attempt % 2), **started)
        while finished(killed) < goal or not killed.exists():
            assert driver.poll() is None, "it was done already"
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        driver.kill()
        assert driver.wait() == -signal.SIGKILL
    assert 0 < finished(killed) < total
    assert subprocess.run(command("killed", 1), **started).returncode == 0
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    time.sleep(1)
    assert not _of_grid(tmp_path)


@pytest.mark.slow
def test_interrupted_on_ray_it_goes_on_and_ends_in_the_same_results(saved, data, tmp_path):
    """Ctrl-C in mid-run of a cluster of its own; processes then measure the rest."""
    pytest.importorskip("ray")
    grid = [*map(str, (saved, "--data", data)), "--methods", "source", "cta", "--workers", "2"]
    grid += ["--corruptions", "none", "contrast", "snow", "fog", "--batch", "12"]
    grid += ["--seeds", *map(str, range(6))]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    ray = ["--engine", "ray", "--ray-address", "local", "--out", str(tmp_path / "one")]
    driver = subprocess.Popen(
        [*COMMAND, *grid, *ray],
        env=environment | {"GRID": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while finished(tmp_path / "one" / "cells.sqlite") < 5:
        assert driver.poll() is None, driver.communicate()[1]
        time.sleep(0.01)
    driver.send_signal(signal.SIGINT)
    said = driver.communicate(timeout=60)[1]
    assert driver.returncode == 130 and "Traceback" not in said, said
    assert 5 <= finished(tmp_path / "one" / "cells.sqlite") < 48
    time.sleep(1)
    assert not _of_grid(tmp_path)
    for out in ("one", "two"):
        given = [*COMMAND, *grid, "--out", str(tmp_path / out)]
        subprocess.run(given, check=True, stdout=subprocess.DEVNULL)
    assert rows(tmp_path / "one") == rows(tmp_path / "two")


def _of_grid(mark):
    """Processes that were started for a grid."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended by now
            if f"GRID={mark}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(process)
    return found
