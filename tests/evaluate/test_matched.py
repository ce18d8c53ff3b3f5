"""Scores of bundles whose classes come in another order than the data's, from bench to report."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from acclimate.adapt import Adapter
from acclimate.bundle import Bundle
from acclimate.cli import main
from acclimate.data import LabelledImages, Shift
from acclimate.evaluate.measure import measure
from acclimate.evaluate.task import Grid, tasks_of
from acclimate.evaluate.variant import Variant
from acclimate.report.samples import samples_of
from acclimate.runtime import workers

CLEAN = [Shift("none", 0)]


@pytest.fixture(scope="module")
def answered(bundle, images):
    """The bundle's own answers as labels: it is always right."""
    some = images[:48]
    labels = Adapter(bundle, "source", device="cpu")(some).argmax(1)
    assert len(labels.unique()) > 1
    return LabelledImages(some, labels, bundle.classes, "tiny")


def turned(data):
    """The same data with its classes in reverse order."""
    last = len(data.classes) - 1
    return replace(data, labels=last - data.labels, classes=data.classes[::-1])


def accuracy(bundle, data):
    (cell,) = measure(bundle, Variant("source"), data, CLEAN, batch=16, device="cpu")
    return cell.accuracy


def test_classes_are_matched_by_name(bundle, answered):
    assert accuracy(bundle, answered) == accuracy(bundle, turned(answered)) == 1
    numbered = replace(bundle, classes=("0", "1", "2", "3"))
    assert accuracy(numbered, answered) == 1
    assert accuracy(numbered, turned(answered)) < 1  # nothing says that the order is another
    folders = replace(turned(answered), classes=("3", "2", "1", "0"))
    assert accuracy(bundle, folders) == accuracy(numbered, folders) == 1


def test_the_order_of_classes_is_part_of_a_task_only_where_it_moves_labels(
    saved, answered, tmp_path, bundle
):
    grid = Grid(("none",), methods=("source",), batch=16)
    (plain,), (other,) = (tasks_of(grid, {"b": saved}, d) for d in (answered, turned(answered)))
    assert plain.outputs == () and "outputs" not in plain.record()
    assert other.outputs == (3, 2, 1, 0)
    assert type(other).of_record(json.loads(json.dumps(other.record()))) == other
    assert other.key != replace(other, outputs=()).key


@pytest.fixture
def folders(answered, tmp_path, monkeypatch):
    """``test/CLASS/image``, in the order of the names."""
    monkeypatch.setattr(workers, "processes", lambda *numbers: workers.here)
    for number, (image, label) in enumerate(zip(answered.images, answered.labels.tolist())):
        folder = tmp_path / "photos" / "test" / answered.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    for name in answered.classes:
        (tmp_path / "photos" / "test" / name).mkdir(exist_ok=True)
    return tmp_path / "photos"


def renamed(bundle, path, order):
    """The bundle saved with its outputs, and their names, in another order."""
    head = bundle.classifier.head
    moved = torch.tensor(order)
    copy = Bundle.load(path.parent / "first")
    copy.classifier.head.weight.data = head.weight.data[moved]
    copy.classifier.head.bias.data = head.bias.data[moved]
    replace(copy, twin=None, classes=tuple(bundle.classes[i] for i in order)).save(path)


def score(out):
    with (out / "results.csv").open(newline="") as file:
        return [float(row["accuracy"]) for row in csv.DictReader(file)]


def test_bench_scores_as_adapt_answers(bundle, folders, tmp_path, capsys):
    """Outputs (zebra, ant) on folders ant/, zebra/ scored 0 where adapt was right."""
    bundle.save(tmp_path / "first")
    present = {path.parent.name for path in folders.rglob("*.png")}
    if len(present) < 4:  # every class needs an image
        missing = sorted(set(bundle.classes) - present)
        for name in missing:
            Image.new("RGB", (16, 16)).save(folders / "test" / name / "extra.png")
    renamed(bundle, tmp_path / "b", (3, 1, 0, 2))
    options = ["--data", str(folders), "--methods", "source", "--corruptions", "none"]
    for name in ("first", "b"):
        main(["bench", str(tmp_path / name), *options, "--out", str(tmp_path / f"{name}-out")])
    assert score(tmp_path / "b-out") == score(tmp_path / "first-out")
    assert score(tmp_path / "b-out")[0] > 0.9
    said = " ".join(capsys.readouterr().out.split())
    assert "note:" not in said
    replace(bundle, classes=("0", "1", "2", "3")).save(tmp_path / "unnamed")
    main(["bench", str(tmp_path / "unnamed"), *options, "--out", str(tmp_path / "u-out")])
    said = " ".join(capsys.readouterr().out.split())
    assert "note: " in said and "has no class names" in said and "(ant, bee, cat, dog)" in said
    (grid,) = json.loads((tmp_path / "u-out" / "manifest.json").read_text())["grids"]
    assert "has no class names" in grid["notes"][0]
    replace(bundle, classes=("ant", "bee", "cat", "lion")).save(tmp_path / "lions")
    with pytest.raises(SystemExit) as stopped:
        main(["bench", str(tmp_path / "lions"), *options, "--out", str(tmp_path / "l-out")])
    assert stopped.value.code == 2
    refused = capsys.readouterr().err
    assert "(lion, ant, bee, cat)" in refused and "(dog, ant, bee, cat)" in refused


def test_samples_name_the_class_of_the_image(bundle, answered):
    shifts = [Shift("fog", 5)]
    cells = [
        measure(bundle, Variant(name), turned(answered), shifts, batch=16, device="cpu")[0]
        for name in ("source", "cta")
    ]
    (sample,) = samples_of(bundle.classes, ["fog"], turned(answered), cells)
    number = int((answered.images == sample.clean).flatten(1).all(1).nonzero()[0])
    assert sample.truth == answered.classes[answered.labels[number]]
