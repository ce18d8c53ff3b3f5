"""The study of our default: its candidates are settings, and it chooses without what it reports."""

import sys
from pathlib import Path

import pytest
import torch

from acclimate.data.corruptions import PUBLISHED
from acclimate.evaluate.cell import CLEAN
from acclimate.evaluate.variant import Variant
from acclimate.methods import METHODS, check_settings
from acclimate.source.held_out import SHIFTS


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "studies"))
    import ours
    import ours_candidates

    yield ours, ours_candidates
    for name in ("ours", "ours_candidates", "methods", "bundles"):
        sys.modules.pop(name, None)


def test_candidates_are_settings_that_differ(study):
    _, candidates = study
    found = [Variant.parse(text) for text in candidates.variants(candidates.CHANGES)]
    for variant, name in zip(found, candidates.CHANGES, strict=True):
        check_settings(variant.settings)
        assert candidates.name_of(variant) == name
        assert (variant.settings == METHODS["acclimate"].settings) == (name == "acclimate")
    for few in (candidates.SMALL, candidates.CORRELATED, candidates.FINALISTS):
        assert set(few) <= candidates.CHANGES.keys()
    assert set(candidates.FIFTEEN) <= METHODS.keys()


@pytest.mark.parametrize("part", ["screening", "small", "finalists", "forgetting", "fifteen"])
def test_what_is_reported_chooses_nothing(study, tmp_path, part):
    ours, _ = study
    orders = ("shuffled", "class-correlated", "continual")
    arguments = ours.Arguments("data", Path("weights"), tmp_path, part=part, orders=orders[:2])
    jobs = list(ours.grids(arguments))
    measured = {name for job in jobs for name in job.grid.corruptions} - {CLEAN}
    assert measured == set(PUBLISHED if part == "fifteen" else SHIFTS)
    loads = {load.func for job in jobs for load in job.loads}
    assert loads == {ours.test if part == "fifteen" else ours.held_out}


def test_images_that_choose_are_none_that_were_aligned_with(study, data):
    ours, _ = study
    rest, held = ours.hold_out(ours.load(str(data), "train"), ours.EVERY)
    assert ours.held_out(str(data), 5).images.shape[0] == 5
    assert not set(rest.paths) & set(held.paths)
    assert set(ours.held_out(str(data), 100).paths) == set(held.paths)


def test_the_networks_are_built_by_name(study, monkeypatch):
    from acclimate.backbones import build
    from acclimate.backbones.code import trusted_code

    with trusted_code():
        network = build("public_networks:resnet20", classes=10)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert sum(p.numel() for p in network.parameters()) == 269_722
