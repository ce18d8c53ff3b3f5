"""One setting changed, as variants of a grid: against each method measured with these settings."""

import csv
import sys
from pathlib import Path
from statistics import mean

import pytest
import torch
from PIL import Image

from acclimate.bundle import Bundle
from acclimate.data import Shift, load
from acclimate.evaluate.measure import measure
from acclimate.evaluate.variant import Variant
from acclimate.methods import METHODS, changes
from acclimate.runtime import workers

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.fixture
def studies(monkeypatch):
    """The studies' modules, whose grids run in this process."""
    monkeypatch.syspath_prepend(str(STUDIES))
    import changed
    import methods
    import settings

    monkeypatch.setattr(methods, "processes", lambda count: workers.here)
    yield changed, settings
    for name in ("changed", "methods", "settings", "bundles"):
        sys.modules.pop(name)


@pytest.fixture(scope="module")
def folder(images, tmp_path_factory):
    """Four classes; every split has all of them."""
    path = tmp_path_factory.mktemp("studies") / "data"
    for number, image in enumerate(images[:120]):
        split = "train" if number < 100 else "test"
        kind = path / split / ("ant", "bee", "cat", "dog")[number % 4]
        kind.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(kind / f"{number}.png")
    return path


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_changes_are_variants(studies, folder, saved, tmp_path):
    changed, _ = studies
    names = ("cta", "cta-paper")
    assert [str(changed.variant_of("cta", change)) for change in changed.Arguments.changes] == [
        "cta", "cta:steps=3", "cta:update.learning_rate=1e-05", "cta:normalisation=batch",
    ]  # fmt: skip
    out = tmp_path / "out"
    (out / "bundles").mkdir(parents=True)
    (out / "bundles" / "cta").symlink_to(saved)
    arguments = changed.Arguments(
        str(folder), out, 1, results=tmp_path / "results", methods=names, corruptions=("fog",)
    )
    changed.main(arguments)
    found = rows(tmp_path / "results" / "changed.csv")
    assert {(row["method"], row["change"]) for row in found} == {
        (name, change) for name in names for change in changed.Arguments.changes
    }
    paper = METHODS["cta-paper"].settings
    slower = changes.changed(paper, {"update.learning_rate": 1e-7})  # 1e-6 is published
    (cell,) = measure(
        Bundle.load(saved), Variant("cta-paper"), load(folder, "test"), [Shift("fog", 5)],
        settings=slower, curve=True,
    )  # fmt: skip
    mine = [r for r in found if (r["method"], r["change"]) == ("cta-paper", "a tenth of the rate")]
    every = paper.steps // 4
    assert [int(row["steps"]) for row in mine] == list(range(0, paper.steps + 1, every))
    assert [float(row["accuracy"]) for row in mine] == [
        pytest.approx(value, abs=1e-5) for value in cell.curve[::every]
    ]
    assert (out / "grid" / "analyses" / "changed.json").exists()
    longest = max(int(row["steps"]) for row in found if row["change"] == "three times the steps")
    assert longest == 3 * paper.steps


def test_settings_are_variants_of_two_bundles(studies, folder, bundle, tmp_path, monkeypatch):
    _, settings = studies
    few = (*settings.ROWS[:5], settings.ROWS[-1])
    monkeypatch.setattr(settings, "ROWS", few)
    monkeypatch.setattr(settings, "EVERY", 5)
    monkeypatch.setattr(settings, "was_made", lambda path, *rest: path.exists())
    out = tmp_path / "out"
    bundle.save(out / "bundles" / settings.PLAIN)
    arguments = settings.Arguments(str(folder), out, tmp_path / "results", images=16, workers=1)
    settings.main(arguments)
    found = rows(tmp_path / "results" / "held_out.csv")
    assert [(row["method"], row["setting"]) for row in found[3:]] == [
        ("aligned-bn", "as it is"),
        ("cta", "update.learning_rate 1e-05"),
        ("cta", "reset never, update.learning_rate 0.001, update.parameters norm, gentle views"),
    ]
    assert [row["chosen"] for row in found].count("yes") == 1
    base, *others = found[3], *found[:3], *found[4:]
    assert (base["gain"], base["low"], base["high"]) == ("0.0", "0.0", "0.0")
    for row in others:
        means = [mean(float(r[name]) for name in settings.CORRUPTIONS) for r in (row, base)]
        assert float(row["gain"]) == pytest.approx(means[0] - means[1], abs=2e-5)
        assert float(row["mean"]) == pytest.approx(means[0], abs=1e-5)
    gentle = Bundle.load(out / "bundles" / settings.GENTLE)
    assert gentle.options["views"] == {**bundle.options["views"], **settings.GENTLE_VIEWS}
    assert torch.equal(gentle.classifier.head.weight, bundle.classifier.head.weight)
    assert {row["n_images"] for row in found} == {"16"}
