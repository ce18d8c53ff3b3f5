import json

import pytest
import torch

from acclimate.data import LabelledImages
from acclimate.errors import InputError
from acclimate.evaluate.analyses.kinds import KINDS, Analysis


@pytest.fixture
def analysis(images, bundle_of, tmp_path):
    def make(*names):
        labels = torch.arange(24) % 4
        test = LabelledImages(images[:24], labels, ("ant", "bee", "cat", "dog"), "tiny")
        paths = {}
        for name in names:
            paths[name] = tmp_path / name
            bundle_of(name).save(paths[name])
        return Analysis(paths, test, test, ("contrast",), steps=1, batch=12, seed=0)

    return make


def run(kind, analysis, out):
    told = []
    path = KINDS[kind](analysis, out, lambda *event: told.append(event[1:3]))
    assert told[-1][0] == told[-1][1]
    assert path == out / "analyses" / f"{kind}.json"
    record = json.loads(path.read_text())
    assert record["title"] and record["caption"]
    assert all(len(row) == len(record["columns"]) for row in record["rows"])
    return record


def test_semantics(analysis, tmp_path):
    record = run("semantics", analysis("cta", "y"), tmp_path / "out")
    assert [row[0] for row in record["rows"]] == 4 * ["cta-paper"] + 4 * ["y"]
    drift = record["columns"].index("drift")
    assert [row[drift] is None for row in record["rows"]] == [1, 0, 1, 0, 0, 1, 0, 1]
    assert record["settings"]["images"] == 24


def test_tsne(analysis, tmp_path):
    record = run("tsne", analysis("cta"), tmp_path / "out")
    assert [row[1:3] for row in record["rows"]] == [
        [part, state] for state in ("clean", "before", "after") for part in ("encoder", "projector")
    ]
    assert [len(points) for points in record["points"]] == 6 * [24]
    assert all(len(point) == 2 for points in record["points"] for point in points)
    assert sorted(record["labels"][0]) == 6 * [0] + 6 * [1] + 6 * [2] + 6 * [3]


def test_gradients(analysis, tmp_path):
    record = run("gradients", analysis("ttt"), tmp_path / "out")
    assert [row[:2] for row in record["rows"]] == [["contrast", s] for s in range(1, 6)]
    assert set(record["r_gain_ttt"]) == {"r", "low", "high"}
    assert (tmp_path / "out" / "results.csv").exists()
    with pytest.raises(InputError, match="one bundle"):
        run("gradients", Analysis({}, *[None] * 2, (), 1, 1, 0), tmp_path / "other")
