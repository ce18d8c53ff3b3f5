"""Accuracy in each tenth of a stream, against a plain count."""

import csv
import sys
from pathlib import Path

import pytest
import torch

from acclimate.data import LabelledImages
from acclimate.evaluate.bench import Bench, run_bench
from acclimate.evaluate.task import Grid

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
try:
    import along
finally:
    sys.path.pop(0)


@pytest.fixture(scope="module")
def measured(saved, images, tmp_path_factory):
    """A grid's folder and its cells: shuffled streams, and one of growing noise."""
    data = LabelledImages(images, torch.arange(len(images)) * 7 % 4, tuple("abcd"), "tiny")
    out, cells = tmp_path_factory.mktemp("grid"), []
    kinds = {"shuffled": ("none", "fog", "contrast"), "growing-noise": ("gaussian_noise",)}
    for order, names in kinds.items():
        grid = Grid(names, methods=("source",), orders=(order,), batch=8)
        cells += run_bench(Bench(grid, {"b": saved}, lambda: data), out)[0]
    return out, cells


def test_tenths_are_those_of_the_answers(measured, tmp_path):
    folder, cells = measured
    along.main(along.Arguments(folder, tmp_path))
    with (tmp_path / "along.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["tenth"] for row in rows] == 2 * [str(tenth) for tenth in range(1, 11)]
    for order in ("shuffled", "growing-noise"):
        mine = [c for c in cells if c.order == order and c.corruption != "none"]
        found = [float(row["accuracy"]) for row in rows if row["order"] == order]
        for tenth, accuracy in enumerate(found):
            right = [
                bool(right)
                for cell in mine
                for position, right in zip(cell.answers.positions, cell.answers.right)
                if tenth * 16 <= position < (tenth + 1) * 16
            ]
            assert len(right) == 16 * len(mine)
            assert accuracy == pytest.approx(sum(right) / len(right), abs=1e-5)
        assert len(set(found)) > 1
