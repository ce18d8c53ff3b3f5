import csv
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "studies"))
try:
    import architectures
finally:
    sys.path.pop(0)

NAMES = ["acclimate:resnet8-w4", "acclimate:vit1-w8-p8", "acclimate:resnet9"]


def test_a_study_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(architectures.resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(architectures, "parameters_of", lambda name: 1000)
    arguments = architectures.Arguments(tmp_path)

    def run(names):
        monkeypatch.setattr(architectures, "chosen", lambda _: [(n, "own") for n in names])
        architectures.main(arguments)
        with (tmp_path / "architectures.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    first = run(NAMES[:1])
    rows = run(NAMES)
    assert rows[:1] == first and [row["name"] for row in rows] == NAMES
    assert [row["head"] for row in rows[:2]] == ["linear", "linear"]
    assert {row[method] for row in rows[:2] for method in ("source", "tent", "cta")} == {"works"}
    assert rows[0]["ptbn"] == "works" and rows[1]["ptbn"].startswith("refused: ptbn is about batch")
    assert rows[2]["head"].startswith("refused: ") and rows[2]["source"] == "-"


def test_limits(monkeypatch):
    arguments = architectures.Arguments(Path(), largest=10, seconds=1)
    row = architectures.measured(NAMES[0], "own", 11, arguments)
    assert row.head == "not tried: too large for the memory here"

    def busy(_):
        while True:
            time.process_time()

    monkeypatch.setattr(architectures, "tried", busy)
    row = architectures.measured(NAMES[0], "own", 9, replace(arguments, seconds=1))
    assert row.head == "not finished in 1 seconds"


def test_a_crash_is_a_row(monkeypatch):
    monkeypatch.setattr(architectures, "measured", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    row = architectures.apart(NAMES[0], "own", architectures.Arguments(Path()))
    assert row.head == "ended its process: Killed" and row.source == "-"


def test_outcomes():
    def fails():
        raise RuntimeError("one\ntwo")

    assert architectures.outcome(fails) == "failed: RuntimeError: one"


def test_small_names_come_first():
    names = ["resnet50", "vit_large_14", "resnet18", "vit_tiny_16", "vit_base_16", "test_vit"]
    ordered = sorted(names, key=architectures.size_in_name)
    assert ordered == [names[i] for i in (5, 3, 2, 0, 4, 1)]
