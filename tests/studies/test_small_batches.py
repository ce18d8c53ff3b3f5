"""The study of small batches: its streams, how they arrive, and what counts as lost."""

import sys
from pathlib import Path

import pytest
import torch

from acclimate.data import LabelledImages
from acclimate.data.corruptions import PUBLISHED
from acclimate.methods import METHODS


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "studies"))
    import small_batches

    yield small_batches
    for name in ("small_batches", "ours", "ours_candidates", "methods", "bundles"):
        sys.modules.pop(name, None)


@pytest.fixture
def arguments(study, tmp_path):
    return study.Arguments("data", Path("weights"), tmp_path, images=40, single_images=12)


@pytest.fixture
def arrivals(study, arguments, monkeypatch):
    def few(data, count):
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
        return LabelledImages(images, torch.arange(count) % 3, ("a", "b", "c"), "few")

    monkeypatch.setattr(study, "test", few)
    return study.Arrivals(arguments)


def test_each_batch_and_order_is_measured_under_each_corruption(study, arguments):
    found = list(study.streams(arguments))
    mine = [stream for stream in found if stream.method == "acclimate"]
    assert len(mine) == 4 * 3 * 16 == len(set(mine))
    assert {stream.corruption for stream in mine} == {"none", *PUBLISHED}
    assert {(s.batch, s.images) for s in mine} == {(200, 40), (16, 40), (4, 40), (1, 12)}
    assert set(arguments.methods) <= METHODS.keys()
    assert len({stream for stream in found if stream.method == "source"}) == 2 * 16


def test_all_orders_have_the_same_images(study, arrivals):
    by_number = []
    for order in study.ORDERS:
        stream = study.Stream("gaussian_noise", order, 4, 12, "acclimate")
        images, labels, numbers = arrivals.of(stream)
        assert numbers.sort().values.tolist() == list(range(12))
        assert torch.equal(labels, numbers % 3)
        by_number.append(images[numbers.argsort()])
        if order == "sorted":
            assert labels.tolist() == sorted(labels.tolist())
    assert all(torch.equal(each, by_number[0]) for each in by_number)


def test_answers_belong_to_other_settings_or_another_bundle(study, arguments):
    stream = study.Stream("fog", "sorted", 4, 12, "acclimate")
    paths = {stream.path(arguments, checksum) for checksum in ("a", "b")}
    paths.add(study.Stream("fog", "sorted", 4, 12, "roid").path(arguments, "a"))
    assert len(paths) == 3


def test_a_stream_is_lost_where_it_is_more_than_a_point_below(study):
    def right(count):
        return {"right": [1] * count + [0] * (200 - count)}

    frozen = {
        study.Stream(c, "shuffled", 1, 200, "source"): right(150) for c in ("none", "fog", "snow")
    }
    mine = {
        study.Stream(c, "sorted", 4, 200, "acclimate"): right(n)
        for c, n in (("none", 100), ("fog", 148), ("snow", 147))
    }
    rows = list(study.compared(frozen | mine))
    assert [row["gain"] for row in rows] == [-25.0, -1.0, -1.5]
    assert all(row["low"] <= row["gain"] <= row["high"] for row in rows)
    (total,) = study.totals(rows)
    assert (total["lost"], total["where"], total["clean_gain"]) == (1, "snow", -25.0)
    assert total["gain"] == -1.25
