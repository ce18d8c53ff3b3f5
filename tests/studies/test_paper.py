"""The papers' settings in parts: stopped after every piece of work, they give the same results."""

import csv
import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from acclimate.bundle import read_record
from acclimate.errors import InputError
from acclimate.evaluate.results import TIMINGS
from acclimate.methods import METHODS
from acclimate.runtime.progress import silent
from acclimate.runtime.workers import here

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "studies"))
try:
    import luggage
    import paper
    import paper_plan
    from clock import Clock, OutOfTime
finally:
    sys.path.pop(0)

TINY = paper_plan.Arguments(
    data="fashion-mnist-mini",
    out=Path("replaced"),
    model="acclimate:resnet8-w8",
    ttt_model="acclimate:preact8-w8",
    epochs=2,
    train_images=15,
    images=3,
    paper_images=3,
    online_images=3,
    single_images=3,
    corruptions=("contrast",),
    rivals=("y",),
    oracles=1,
    workers=1,
    commit="0123",
)
PARTS = ("train-cta", "measure-cta", "train-ttt", "measure-ttt")
ORACLES = ("train-oracles", "measure-oracles")


def rows(path):
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMINGS} for row in csv.DictReader(file)]


def run(arguments):
    """Run until all is done; the number of runs."""
    for count in range(1, 300):
        try:
            paper.main(arguments)
        except SystemExit as stopped:
            assert stopped.code == paper.MORE
        else:
            return count
    raise AssertionError("no progress")


@pytest.mark.slow
def test_stopped_and_resumed_it_gives_the_same(tmp_path):
    whole = replace(TINY, out=tmp_path / "a", results=tmp_path / "ra", parts=PARTS, seconds=1e9)
    assert run(whole) == 1
    often = replace(whole, out=tmp_path / "b", results=tmp_path / "rb", seconds=0)
    assert run(often) > 20
    found = rows(tmp_path / "ra" / "results.csv")
    assert {row["method"] for row in found} >= {"cta", "cta-paper", "tent", "ttt", "ttt-online"}
    for name in ("results.csv", "claims.csv", "summary.csv"):
        assert rows(tmp_path / "ra" / name) == rows(tmp_path / "rb" / name)
    for label in ("supervised", "cta", "ttt"):
        weights = [read_record(each.bundle(label))["weights_sha256"] for each in (whole, often)]
        assert weights[0] == weights[1]
    settings = json.loads((tmp_path / "ra" / "settings.json").read_text())["runs"][-1]
    assert settings["machine"]["commit"] == "0123"
    assert set(settings["training"]["cta"]["seconds"]) == {"supervised", "contrastive", "align"}
    assert len(list((tmp_path / "rb").iterdir())) <= paper.FILES
    place = tmp_path / "c"
    elsewhere = replace(whole, out=place, results=tmp_path / "rc", state=tmp_path / "rb")
    assert run(replace(elsewhere, parts=(*PARTS, *ORACLES))) == 1
    assert [path.name for path in (place / "stages").iterdir()] == ["uda-ss-contrast"]
    more = rows(tmp_path / "rc" / "results.csv")
    assert [row for row in more if row["bundle"] != "uda-ss-contrast"] == found
    (claim,) = (r for r in rows(tmp_path / "rc" / "claims.csv") if "uda-ss" in r["claim"])
    assert (claim["where"], claim["images"]) == ("contrast", "3")


def test_costly_methods_are_measured_on_fewer_images_with_the_others():
    names = ["source", "tent", "cta-paper", "note", "ttt-online", "ttt"]
    sizes = paper_plan.sizes(paper_plan.Arguments("data", Path("out")), names)
    assert sizes == {10_000: names[:2], 2000: names[:4], 500: names[:5], 100: names}
    assert list(sizes) == [10_000, 2000, 500, 100]
    assert METHODS["cta-paper"].settings.steps == 20


def test_training_stops_after_an_epoch_and_not_before_the_first():
    tell = Clock(0).training(silent)
    tell("trust in the classifier's batches", 1, 12, "limit 1")
    for done in (1, 2):
        tell("supervised", done, 4, "epoch 1")
    with pytest.raises(OutOfTime):
        tell("supervised", 3, 4, "epoch 2")
    tell = Clock(1e9).training(silent)
    for done in (1, 2):
        tell("supervised", done, 2, f"epoch {done}")


def test_what_fits_any_classifier_is_measured_with_one():
    assert not paper_plan.own("tent") and not paper_plan.own("cotta")
    names = {name for name in METHODS if paper_plan.own(name)}
    assert {"ptbn", "bn-adapt", "cta", "ttt-online", "y"} <= names


def test_a_grid_stops_after_a_task():
    engine = Clock(0).engine(here)
    assert list(engine(str, [1, 2, 3])) == [(1, "1")]
    assert list(Clock(1e9).engine(here)(str, [1, 2])) == [(1, "1"), (2, "2")]


def test_the_state_travels_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(luggage, "PIECE", 8000)
    out, results = tmp_path / "out", tmp_path / "results"
    content = random.Random(0).randbytes(50_000)
    results.mkdir()
    for name in ("log/runs.json", "bundles/cta/a", "stages/cta/b", "stages/ttt/c", "grid/d"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(name)
    (out / "grid" / "large").write_bytes(content)
    assert luggage.leave(out, results, 12) == []
    assert len(list(results.iterdir())) > 1
    luggage.bring(results, tmp_path / "there")
    there = {p.relative_to(tmp_path / "there").as_posix() for p in (tmp_path / "there").rglob("*")}
    assert {"log/runs.json", "bundles/cta/a", "stages/ttt/c", "grid/d", "grid/large"} <= there
    assert "stages/cta/b" not in there  # its bundle is finished
    assert (tmp_path / "there" / "grid" / "large").read_bytes() == content
    (results / "state.zip.00").unlink()
    luggage.bring(results, tmp_path / "there")  # nothing to do any more
    with pytest.raises(InputError, match="lacks some"):
        luggage.bring(results, tmp_path / "elsewhere")
    assert luggage.leave(out, results, 4) == ["grid"]
    assert all(path.stat().st_size <= 8000 for path in results.iterdir())
    assert len(list(results.iterdir())) == 4
