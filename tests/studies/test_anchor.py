"""The study of all online methods: a grid for each protocol."""

import sys
from pathlib import Path

import pytest

from acclimate.data.corruptions import PUBLISHED
from acclimate.evaluate.cell import CLEAN
from acclimate.methods import METHODS


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "studies"))
    import anchor

    yield anchor
    for name in ("anchor", "ours", "ours_candidates", "methods", "bundles", "score"):
        sys.modules.pop(name, None)


def test_protocols_of_batches_share_a_grid(study, tmp_path):
    protocols = ("reset", "single-images", "continual")
    given = {"bundles": (Path("runs/mine"),), "protocols": protocols}
    batches, single = study.grids(study.Arguments("data", Path("weights"), tmp_path, **given))
    assert batches.grid.orders == ("shuffled", "continual") and not batches.grid.window
    assert batches.grid.corruptions == single.grid.corruptions == (CLEAN, *PUBLISHED)
    assert (single.grid.batch, single.grid.window) == (1, 16)
    assert set(batches.bundles) == {"resnet20", "mine"}
    assert set(study.METHODS) <= METHODS.keys()


def test_clean_images_are_no_part_of_a_continual_stream(study, tmp_path):
    (batches,) = study.grids(study.Arguments("data", Path("weights"), tmp_path))
    streams = batches.grid.streams()
    assert {len(shifts) for _, order, shifts in streams if order == "shuffled"} == {1}
    (shifts,) = [shifts for _, order, shifts in streams if order == "continual"]
    assert [shift.corruption for shift in shifts] == list(PUBLISHED)
