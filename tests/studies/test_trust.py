"""The study of trust: every limit beside the measured one, of each model, in two tables."""

import csv
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acclimate.backbones.batch_norm import Trust
from acclimate.source.held_out import SHIFTS
from acclimate.source.train import untrained
from acclimate.source.trust import LIMITS


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "studies"))
    import trust

    yield trust
    for name in ("trust", "ours", "ours_candidates", "methods", "bundles", "score"):
        sys.modules.pop(name, None)


@pytest.fixture
def images(tmp_path):
    """A folder of two classes."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for label in ("a", "b"):
        folder = tmp_path / "data" / "test" / label
        folder.mkdir(parents=True)
        for number in range(6):
            pixels = torch.randint(256, (16, 16, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    return str(tmp_path / "data")


def test_every_limit_stands_beside_the_measured_one(study, images, tmp_path):
    bundle = untrained("cta", "acclimate:resnet8-w4", 16, classes=2)
    trust = {"classifier": Trust(4.0, 0.35), "twin": Trust(0.0, 1.0)}
    path = tmp_path / "mine"
    replace(bundle, trust=trust, classes=("a", "b")).save(path)
    given = study.Arguments(images, (path,), tmp_path / "out", tmp_path / "results", images=12)
    (run,) = study.grids(given)
    assert run.grid.corruptions == ("none", *SHIFTS)  # none that a table reports
    study.main(replace(given, batch=6))
    with (tmp_path / "results" / "trust.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1 + 2 * (1 + len(LIMITS))
    measured = [row for row in rows if row["as_measured"]]
    assert [(r["method"], float(r["limit"]), float(r["prior"])) for r in measured] == [
        ("bn-adapt", 0.35, 4.0),
        ("aligned-bn", 1.0, 0.0),
    ]
    with (tmp_path / "results" / "summary.csv").open() as file:
        classifier, twin = csv.DictReader(file)
    assert (classifier["model"], twin["model"]) == ("mine: bn-adapt", "mine: aligned-bn")
    assert {f"{limit:g}" for limit in LIMITS} < classifier.keys()
    assert twin["as_measured"] == twin["1"]  # the same limit, and no prior
    source = next(row for row in rows if row["method"] == "source")
    assert classifier["source"] == twin["source"] == f"{source['clean']} / {source['corrupted']}"
