"""The study of networks without batch norm: what is measured on which images, and what is kept."""

import csv
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from acclimate.backbones import build
from acclimate.backbones.batch_norm import batch_norms
from acclimate.bundle import read_record
from acclimate.data.corruptions import PUBLISHED
from acclimate.errors import InputError
from acclimate.evaluate.cell import CLEAN, Answers
from acclimate.evaluate.variant import Variant
from acclimate.methods import METHODS, check_settings
from acclimate.runtime import workers
from acclimate.source.held_out import SHIFTS
from acclimate.source.loop import Training


@pytest.fixture
def study(monkeypatch):
    """The study, whose grids run in this process."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "studies"))
    import bundles
    import methods
    import without_batch_norm

    for module in (bundles, methods):
        monkeypatch.setattr(module, "processes", lambda count: workers.here)
    yield without_batch_norm
    for name in ("without_batch_norm", "anchor", "ours", "ours_candidates", "methods", "bundles"):
        sys.modules.pop(name, None)
    sys.modules.pop("score", None)


@pytest.fixture
def arguments(study, tmp_path):
    return study.Arguments("data", tmp_path)


def test_the_networks_have_no_batch_norm(study):
    for network in study.NETWORKS.values():
        assert not batch_norms(build(network.model, classes=10))


def test_what_is_reported_chooses_nothing(study, arguments):
    for part, job in study.grids(arguments):
        chooses = part == "held-out"
        assert set(job.grid.corruptions) - {CLEAN} == set(SHIFTS if chooses else PUBLISHED)
        (load,) = job.loads
        assert load.func is (study.held_out if chooses else study.test)


def test_methods_are_known_and_those_of_transformers_come_with_one(study, arguments):
    for _, job in study.grids(arguments):
        (label,) = job.bundles  # of several, only the first is measured with online methods
        for text in job.grid.methods:
            variant = Variant.parse(text)
            check_settings(variant.settings)
            assert label == "vit" or not METHODS[variant.method].transformer


@pytest.mark.parametrize(
    "label, batch, rate",
    [
        ("resnet-gn", 64, 2.5e-4), ("resnet-gn", 32, 2.5e-4), ("resnet-gn", 16, 1.25e-4),
        ("resnet-gn", 1, 2.5e-4 / 16), ("vit", 64, 1e-3), ("vit", 16, 2.5e-4),
        ("vit", 1, 1e-3 / 32),
    ],
)  # fmt: skip
def test_rates_are_those_of_the_paper(study, label, batch, rate):
    """As docs/methods/sar.md has them."""
    network = study.NETWORKS[label]
    variants = study.as_sar(network, batch)
    assert {each.settings.update.learning_rate for each in variants.values()} == {rate}
    for text in study.names_of(network, batch):
        row = {"bundle": label, "method": text}
        assert text == str(variants[study.called(row, batch)])
    assert study.called({"bundle": label, "method": "sar"}, batch) == "sar"


def test_agreement_needs_no_labels(study):
    """By hand: under fog two of three answers are those of the same images when clean, then one."""

    def cell(method, corruption, numbers, predictions):
        numbers, predictions = np.array(numbers), np.array(predictions)
        nothing = np.zeros(len(numbers))
        answers = Answers(np.arange(3), numbers, predictions, nothing, nothing.astype(bool))
        measured = SimpleNamespace(
            variant=Variant(method), bundle="b", corruption=corruption, order="shuffled", window=0,
            answers=answers,
        )  # fmt: skip
        return SimpleNamespace(cell=measured)

    found = study.agreement([
        cell("tent", "fog", [2, 0, 1], [5, 3, 9]), cell("source", CLEAN, [1, 2, 0], [4, 5, 3]),
        cell("tent", "snow", [0, 1, 2], [3, 3, 3]), cell("source", "fog", [0, 1, 2], [3, 4, 5]),
        cell("tent", CLEAN, [0, 1, 2], [0, 0, 0]),
    ])  # fmt: skip
    assert found == {("reset", "b", "tent"): 0.5, ("reset", "b", "source"): 1}


@pytest.mark.slow
def test_both_networks_are_trained_and_measured(study, images, tmp_path, monkeypatch):
    """Smaller networks; the results are of the same form, and a second run adds nothing."""
    data = tmp_path / "data"
    for number, image in enumerate(images[:80]):
        kind = data / ("train" if number < 60 else "test") / ("ant", "bee", "cat")[number % 3]
        kind.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(kind / f"{number}.png")
    small = {"resnet-gn": "acclimate:resnet8-w8-gn", "vit": "acclimate:vit2-w32-p4"}
    once = Training(1, 8)
    networks = {
        label: replace(study.NETWORKS[label], model=model, supervised=once)
        for label, model in small.items()
    }
    monkeypatch.setattr(study, "NETWORKS", networks)
    results, few = tmp_path / "results", 4
    arguments = study.Arguments(
        str(data), tmp_path / "out", results, images=few, few=few, batch=4, small=(4,),
        corruptions=("fog", "contrast"), workers=1,
    )  # fmt: skip
    study.main(arguments)
    for label, model in small.items():
        assert read_record(arguments.out / label)["architecture"] == model
    with (results / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["bundle"] for row in rows if row["called"] == "foa"} == {"vit"}
    for label in small:
        found = {(row["protocol"], row["batch"]) for row in rows if row["bundle"] == label}
        streams = {("reset", "4"), ("continual", "4"), ("mixed", "4"), ("class-correlated", "4")}
        assert found == streams | {("reset", "1")}
    assert all(row["gain"] for row in rows if row["method"] != "source")
    with (results / "held_out.csv").open(newline="") as file:
        agreed = {row["agreement"] for row in csv.DictReader(file)}
    assert all(0 <= float(share) <= 1 for share in agreed) and len(agreed) > 1
    before = (results / "results.csv").read_text()
    study.main(arguments)
    assert (results / "results.csv").read_text() == before
    other = replace(networks["vit"], supervised=replace(once, epochs=2))
    monkeypatch.setitem(networks, "vit", other)
    with pytest.raises(InputError, match="other settings"):
        study.main(arguments)
