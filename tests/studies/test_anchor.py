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


def test_each_protocol_has_a_grid(study, tmp_path):
    arguments = study.Arguments("data", Path("weights"), tmp_path, bundles=(Path("runs/mine"),))
    reset, continual = study.grids(arguments)
    assert reset.grid.corruptions == (CLEAN, *PUBLISHED) and reset.grid.orders == ("shuffled",)
    assert continual.grid.corruptions == PUBLISHED and continual.grid.orders == ("continual",)
    assert set(reset.bundles) == {"resnet20", "mine"}
    assert set(study.METHODS) <= METHODS.keys()
