"""Accuracy in each tenth of a stream, against a plain count."""

import csv
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acclimate.data import LabelledImages
from acclimate.evaluate.grid_run import GridRun, run_grid
from acclimate.evaluate.task import Grid

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "studies"))
try:
    import along
finally:
    sys.path.pop(0)


@pytest.fixture(scope="module")
def measured(saved, images, tmp_path_factory):
    """A grid's folder and its cells: shuffled streams, and one of growing noise."""
    data = LabelledImages(
        images, torch.arange(len(images)) * 7 % 4, ("ant", "bee", "cat", "dog"), "tiny"
    )
    out, cells = tmp_path_factory.mktemp("grid"), []
    fewer = LabelledImages(images[:40], data.labels[:40], data.classes, "tiny")
    kinds = {"shuffled": ("none", "fog", "contrast"), "growing-noise": ("gaussian_noise",)}
    for order, names in kinds.items():
        grid = Grid(names, methods=("source", "ptbn"), orders=(order,), batch=8)
        cells += run_grid(GridRun(grid, {"b": saved}, (lambda: data,)), out)[0]
    small = Grid(("fog",), methods=("source",), batch=8)
    run_grid(GridRun(small, {"b": saved}, (lambda: fewer,)), out)  # which do not count
    other = replace(small, methods=("ptbn",), batch=4)
    cells += run_grid(GridRun(other, {"b": saved}, (lambda: data,)), out)[0]
    return out, [each.cell for each in cells]


def test_tenths_are_those_of_the_answers(measured, tmp_path):
    folder, cells = measured
    along.main(along.Arguments(folder, tmp_path))
    with (tmp_path / "along.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = {(row["method"], row["order"], int(row["batch"])) for row in rows}
    assert len(kinds) == 5 and len(rows) == 50
    for kind in kinds:
        mine = [
            c
            for c in cells
            if (str(c.variant), c.order, c.batch) == kind and c.corruption != "none"
        ]
        here = [r for r in rows if (r["method"], r["order"], int(r["batch"])) == kind]
        assert [row["tenth"] for row in here] == [str(tenth) for tenth in range(1, 11)]
        for tenth, row in enumerate(here):
            right = [
                bool(right)
                for cell in mine
                for position, right in zip(cell.answers.positions, cell.answers.right)
                if tenth * 16 <= position < (tenth + 1) * 16
            ]
            assert len(right) == 16 * len(mine) > 0
            assert float(row["accuracy"]) == pytest.approx(sum(right) / len(right), abs=1e-5)
        assert len({row["accuracy"] for row in here}) > 1
