"""The study of a small CLIP: its training resumes, and what it measures on a few images."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from acclimate.data import load
from acclimate.runtime import workers


@pytest.fixture
def study(monkeypatch):
    """The study, whose grids run in this process."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "studies"))
    import bundles
    import methods
    import small_clip

    for module in (bundles, methods):
        monkeypatch.setattr(module, "processes", lambda count: workers.here)
    yield small_clip
    own = ("small_clip", "small_clip_training", "anchor", "ours", "ours_candidates", "methods")
    for name in (*own, "bundles", "claims", "score"):
        sys.modules.pop(name, None)


@pytest.fixture
def pictures(tmp_path):
    """``split/class/image``: noise of three shades, in 129 pictures to train with."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 43), ("test", 8)):
        for name, low in (("cat", 0), ("dog", 64), ("frog", 127)):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(low, low + 128, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "data"


def test_training_goes_on_where_it_stopped(study, pictures, tmp_path):
    data = load(pictures, "train")

    def stop(*told):
        raise KeyboardInterrupt

    def trained(name, progress):
        path = tmp_path / name / "clip.pt"
        path.parent.mkdir(exist_ok=True)
        return study.training.train(data, path, epochs=2, seed=0, progress=progress)

    whole = trained("whole", lambda *told: None)
    with pytest.raises(KeyboardInterrupt):
        trained("parts", stop)
    assert not (tmp_path / "parts" / "clip.pt").exists()
    again = trained("parts", lambda *told: None)
    for (name, one), other in zip(whole.state_dict().items(), again.state_dict().values()):
        assert torch.equal(one, other), name
    kept = trained("parts", stop)  # from its file: nothing is trained
    assert all(map(torch.equal, kept.state_dict().values(), whole.state_dict().values()))
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["clip.pt"]


@pytest.mark.slow
def test_the_study_on_a_few_images(study, pictures, tmp_path):
    arguments = study.Arguments(
        str(pictures),
        tmp_path / "out",
        tmp_path / "results",
        epochs=1,
        images=8,
        few=2,
        turns=6,
        parallel=4,
        aligned=40,
        alignment=1,
        rounds=1,
        batch=8,
        corruptions=("fog",),
        workers=1,
    )
    study.main(arguments)
    with (tmp_path / "results" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = {(row["bundle"], row["method"], row["images"]) for row in rows}
    for label in ("one", "eight"):
        assert {(label, method, "8") for method in study.METHODS} <= found
        assert {(label, method, "6") for method in study.CLIPARTT} <= found
    assert {("one", "source", "2"), ("one", "tpt", "2")} <= found
    assert {("eight", "watt-s", "6"), ("eight", "watt-p:steps=16", "4")} <= found
    assert {("twin", method, "8") for method in study.OF_TWIN} <= found
    with (tmp_path / "results" / "claims.csv").open() as file:
        claims = {row["claim"]: row for row in csv.DictReader(file)}
    assert claims["averaged texts and watt-s"]["images"] == "6"
    assert {"averaged texts alone", "cta over aligned", "watt-s over clipartt"} <= set(claims)
    twins = {row["method"]: row for row in rows if row["bundle"] == "twin"}
    frozen = next(row for row in rows if (row["bundle"], row["method"]) == ("eight", "source"))
    assert twins["source"]["corrupted"] == frozen["corrupted"]  # the same classifier
