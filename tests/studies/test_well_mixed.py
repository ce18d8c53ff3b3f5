"""The study of a guard that knows how often classes come: streams, that it resumes, and sums."""

import csv
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_guard import calibrate_on_few

from acclimate.data import LabelledImages
from acclimate.errors import InputError
from acclimate.guard import measure_guard
from acclimate.runtime import workers
from acclimate.source.loop import Run


@pytest.fixture
def study(monkeypatch):
    """The study, which works in this process, on few images."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "studies"))
    import bundles
    import well_mixed

    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (90, 3, 32, 32), generator=draw, dtype=torch.uint8)
    few = LabelledImages(images, torch.arange(90) % 3, ("a", "b", "c"), "few")
    monkeypatch.setattr(bundles, "processes", lambda count: workers.here)
    monkeypatch.setattr(well_mixed, "_test", lambda data: few)
    yield well_mixed
    for name in ("well_mixed", "bundles"):
        sys.modules.pop(name, None)


@pytest.fixture
def arguments(study, bundle_of, images, tmp_path, monkeypatch):
    calibrate_on_few(monkeypatch)
    path = tmp_path / "bundle"
    measure_guard(bundle_of("tent"), images, Run(device="cpu")).save(path)
    few = {"methods": ("tent",), "corruptions": ("none", "fog"), "images": 24, "batch": 8}
    return study.Arguments(
        "few", path, "small", tmp_path / "out", tmp_path / "results", workers=1, **few
    )


def test_sorted_streams_have_the_images_of_the_shuffled(study, arguments):
    (first, labels), (again, ordered) = (
        study.stream(arguments, order, "none") for order in ("shuffled", "sorted")
    )
    rows = labels.argsort(stable=True)
    assert torch.equal(ordered, labels[rows]) and not torch.equal(ordered, labels)
    assert torch.equal(again, first[rows]) and len(first) == 24


def test_it_resumes_and_keeps_the_results_of_other_bundles(study, arguments, monkeypatch):
    study.main(arguments)
    with (arguments.results / "streams.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    frozen = {row["order"]: float(row["frozen"]) for row in rows if row["corruption"] == "fog"}
    assert set(frozen) == {"shuffled", "sorted"}
    monkeypatch.setattr(study, "Adapter", None)  # nothing is measured again
    study.main(arguments)
    study.main(replace(arguments, corruptions=("fog",)))
    with (arguments.results / "summary.csv").open(newline="") as file:
        sums = list(csv.DictReader(file))
    assert [row["case"] for row in sums] == ["small, shuffled, tent", "small, sorted, tent"]
    with pytest.raises(InputError, match="streams: Unit"):
        study.main(replace(arguments, seed=1))
    kept = study._others(arguments.results / "streams.csv", replace(arguments, label="another"))
    assert len(kept) == 2 and not study._others(arguments.results / "streams.csv", arguments)


def test_sums_are_means_of_gains_and_of_absolute_errors(study):
    row = {"bundle": "b", "order": "shuffled", "method": "tent"}
    errors = {
        f"{told}_{model}_error": 3.0 for told in study.TOLD for model in ("frozen", "adapted")
    }
    rows = [
        row
        | errors
        | {"corruption": name, "frozen": 50.0, "adapted": a, "any": 50.0, "as-source": b}
        for name, a, b in (("none", 40.0, 49.0), ("fog", 60.0, 60.0), ("snow", 80.0, 78.0))
    ]
    rows[1]["any_frozen_error"] = -5.0
    (total,) = study.totals(rows)
    assert (total["frozen"], total["adapted"], total["adapted_lowest"]) == (50, 20, -10)
    assert (total["any"], total["as-source"], total["as-source_lowest"]) == (0, 19, -1)
    assert (total["any_frozen_error"], total["as-source_frozen_error"]) == (4, 3)
