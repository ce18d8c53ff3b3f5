"""The command behind the main table on a few images; all other benchmarks explain themselves."""

import csv
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest
from PIL import Image

from acclimate.data.corruptions import PUBLISHED
from acclimate.methods import METHODS

ROOT = Path(__file__).parents[2]
RECIPES = ("supervised", "rec-ttt", "y", "cta")
"""Of one and of several stages, in all forms but one."""
PEERS = {
    "against_torch_ttt": "torch_ttt",
    "corruptions": "imagecorruptions",
    "corruption_effect": "imagecorruptions",
}
"""What a benchmark compares with, which the tests do without."""
PARTS = (
    "bare",
    "bare_setup",
    "bundles",
    "by_hand",
    "clock",
    "common",
    "guard_orders",
    "harm_answers",
    "harm_rows",
    "harm_streams",
    "luggage",
    "ours_candidates",
    "paper_plan",
    "public_networks",
    "records",
)
SCRIPTS = [
    path
    for folder in ("benchmarks", "studies")
    for path in sorted((ROOT / folder).glob("*.py"))
    if path.stem not in PARTS
]


def folder(images, path):
    """Dark and light images; the last eight are for testing."""
    for number, image in enumerate(images[:104]):
        split = "train" if number < 96 else "test"
        kind = path / split / ("light" if number % 2 else "dark")
        kind.mkdir(parents=True, exist_ok=True)
        shade = image.float().mul(0.5).add(96 * (number % 2)).byte()
        Image.fromarray(shade.permute(1, 2, 0).numpy()).save(kind / f"{number}.png")
    return path


def run(options):
    words = [str(word) for name, values in options.items() for word in (name, *values)]
    command = [sys.executable, str(ROOT / "studies" / "everything.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=1800)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_table_and_the_claims(images, tmp_path):
    data, results = folder(images, tmp_path / "data"), tmp_path / "results"
    options = {
        "--data": [data],
        "--out": [tmp_path / "out"],
        "--results": [results],
        "--parts": ["table", "claims"],
        "--recipes": RECIPES,
        "--epochs": [1],
        "--seeds": [0],
        "--workers": [1],
    }
    done = run(options)
    assert done.returncode == 0, done.stderr
    results_of = rows(results / "results.csv")
    measured = {(row["method"], row["corruption"]) for row in results_of}
    methods = {
        name
        for name, row in METHODS.items()
        if row.recipe in RECIPES and not (row.transformer or row.zero_shot)
    }
    assert measured == {(name, place) for name in methods for place in ("none", *PUBLISHED)}
    claims = {row["claim"]: row for row in rows(results / "claims.csv")}
    steps = claims["steps add to the aligned twin"]
    assert steps["streams"] == str(len(PUBLISHED))
    found = {(row["method"], row["corruption"]): float(row["accuracy"]) for row in results_of}
    gains = [found["cta", place] - found["aligned-bn", place] for place in PUBLISHED]
    assert float(steps["difference"]) == pytest.approx(mean(gains), abs=1e-5)
    refused = run(options | {"--epochs": [2]})
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "was trained with other settings; choose another --out" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_benchmarks_explain_themselves(path):
    pytest.importorskip(PEERS.get(path.stem, "acclimate"))
    command = [sys.executable, str(path), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()
