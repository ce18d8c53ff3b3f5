from dataclasses import fields, replace

import pytest
import torch
from PIL import Image

from acclimate.backbones import build, split
from acclimate.bundle import Bundle
from acclimate.data import Shift
from acclimate.errors import InputError
from acclimate.evaluate.fitting import variants_of
from acclimate.evaluate.task import Grid, Task, checksum_of, tasks_of
from acclimate.evaluate.variant import Variant
from acclimate.methods import METHODS
from acclimate.methods.changes import changed
from acclimate.preprocessing import Preprocessing

GRID = Grid(("frost",), methods=("cta",), batch=10)


def only(grid, bundles, data):
    (task,) = tasks_of(grid, bundles, data)
    return task


@pytest.fixture(scope="module")
def task(saved, data):
    return only(GRID, {"b": saved}, data)


@pytest.mark.parametrize(
    "name", [field.name for field in fields(Grid) if field.name not in ("methods", "parts")]
)
def test_what_a_grid_says_is_part_of_the_key(name, task, saved, data):
    others = {
        "corruptions": ("snow",), "severities": (4,), "orders": ("class-correlated",),
        "seeds": (1,), "batch": 12, "curve": False,
    }  # fmt: skip
    changes = {"window": 4, "batch": 1} if name == "window" else {name: others[name]}
    other = only(replace(GRID, **changes), {"b": saved}, data)
    if name == "window":
        assert not other.curve
        task = only(replace(GRID, batch=1, curve=False), {"b": saved}, data)
    assert other.key != task.key


def test_every_field_of_a_task_is_part_of_the_key(task):
    for field in fields(task):
        value = getattr(task, field.name)
        other = {str: "x", int: 77, bool: not value}.get(type(value), Variant("y"))
        if field.name == "settings":
            other = changed(value, {"objective.temperature": 0.3})
        if field.name == "shifts":
            other = (Shift("frost", 4),)
        assert replace(task, **{field.name: other}).key != task.key, field.name


def test_keys_of_before_there_were_windows_stay(task):
    record = task.record()
    assert "window" not in record and "outputs" not in record
    again = Task.of_record(record)
    assert again == task and again.key == task.key
    assert Task.of_record(replace(task, window=16).record()).window == 16


def test_images_and_labels_are_part_of_the_key(task, saved, data):
    images = data.images.clone()
    images[3, 1, 2, 4] ^= 1
    labels = data.labels.clone()
    labels[5] = (labels[5] + 1) % 4
    fewer = replace(data, images=data.images[:-1], labels=data.labels[:-1])
    others = [replace(data, images=images), replace(data, labels=labels), fewer]
    keys = {only(GRID, {"b": saved}, other).key for other in others}
    assert len(keys | {task.key}) == 4
    assert only(GRID, {"b": saved}, replace(data, name="other")).key != task.key
    same = replace(data, paths=("x",) * 24, images=data.images.clone())
    assert only(GRID, {"b": saved}, same).key == task.key


def test_settings_of_the_method_are_part_of_the_key(task, saved, data, monkeypatch):
    assert (
        only(replace(GRID, methods=("cta:update.learning_rate=0",)), {"b": saved}, data).key
        != task.key
    )
    row = METHODS["cta"]
    other = changed(row.settings, {"objective.temperature": 0.3})
    monkeypatch.setitem(METHODS, "cta", replace(row, settings=other))
    assert only(GRID, {"b": saved}, data).key != task.key


@pytest.mark.parametrize(
    "changes", ["weights", "preprocessing", "classes", "provenance", "method", "folder"]
)
def test_what_a_bundle_answers_with_is_part_of_the_key(changes, task, saved, data, tmp_path):
    bundle = Bundle.load(saved)
    if changes == "weights":
        bundle.classifier.head.bias.data[0] += 1e-3
    if changes == "preprocessing":
        known = bundle.preprocessing
        bundle = replace(bundle, preprocessing=replace(known, mean=(0.5, 0.5, 0.5)))
    if changes == "classes":
        bundle = replace(bundle, classes=("bee", "ant", "cat", "dog"))
    if changes == "provenance":
        bundle = replace(bundle, provenance={"seed": 9, "settings": {}})
    if changes == "method":
        bundle = replace(bundle, method="ptbn")
    bundle.save(tmp_path / "other")
    same = only(GRID, {"b": tmp_path / "other"}, data).key == task.key
    assert same == (changes in ("provenance", "method", "folder"))


def test_frost_of_other_pictures_is_another_task(task, saved, data, tmp_path, monkeypatch):
    plain = replace(GRID, corruptions=("fog",))
    before = only(plain, {"b": saved}, data)
    Image.new("RGB", (60, 40), "white").save(tmp_path / "white.png")
    monkeypatch.setenv("ACCLIMATE_FROST", str(tmp_path))
    assert only(GRID, {"b": saved}, data).key != task.key
    assert only(plain, {"b": saved}, data) == before


def test_what_is_named_twice_is_measured_once(saved, data):
    once = tasks_of(Grid(("fog", "none"), (5,), ("shuffled", "continual")), {"b": saved}, data)
    names = ("fog", "none", "fog")
    orders = ("shuffled", "continual", "shuffled")
    twice = tasks_of(Grid(names, (5, 5), orders, (0, 0)), {"b": saved}, data)
    assert twice == once
    assert len({task.key for task in once}) == len(once)
    chosen = Grid(("fog",), methods=("source", "ptbn", "source"))
    assert [str(task.variant) for task in tasks_of(chosen, {"b": saved}, data)] == [
        "source",
        "ptbn",
    ]


def test_lengths_are_those_of_the_streams(saved, data):
    orders = ("shuffled", "label-shifted", "continual", "recurring", "gradual", "growing-noise")
    grid = Grid(("gaussian_noise", "fog"), orders=orders, methods=("source",))
    lengths = {task.order: task.length for task in tasks_of(grid, {"b": saved}, data)}
    assert lengths.pop("label-shifted") < 24
    assert lengths == {
        "shuffled": 24, "continual": 48, "recurring": 20 * 48, "gradual": 48, "growing-noise": 24,
    }  # fmt: skip


def test_usual_methods(saved, bundle_of, tmp_path):
    bundle_of("clust3").save(tmp_path / "clust3")
    found = variants_of({"cta": saved, "clust3": tmp_path / "clust3"})
    of_any = [n for n, row in METHODS.items() if not (row.transformer or row.zero_shot)]
    plain = [n for n in of_any if METHODS[n].recipe == "supervised"]
    cta = [name for name, row in METHODS.items() if row.recipe == "cta"]
    found = {label: [str(variant) for variant in some] for label, some in found.items()}
    assert set(found["cta"]) == {*plain, *cta}
    assert found["clust3"][:2] == ["source", "ptbn"]
    clust3 = [name for name, row in METHODS.items() if row.recipe == "clust3"]
    assert set(found["clust3"]) - set(clust3) == {
        name for name in plain if not METHODS[name].settings.steps
    }
    clust3, tent = Variant.of("clust3", {"steps": 2}), Variant("tent")
    chosen = variants_of({"cta": saved, "clust3": tmp_path / "clust3"}, [clust3, tent])
    assert chosen == {"cta": [tent], "clust3": [clust3]}


def test_methods_for_any_classifier_come_with_each_network(saved, tmp_path):
    classes = Bundle.load(saved).classes
    other = build("acclimate:resnet8-w4", classes=len(classes))
    for label in ("other", "again"):
        named = Bundle(split(other), None, Preprocessing(28), classes)
        replace(named, architecture="acclimate:resnet8-w4").save(tmp_path / label)
    bundles = {"mine": saved, "other": tmp_path / "other", "again": tmp_path / "again"}
    found = variants_of(bundles, [Variant("tent"), Variant("ptbn")])
    both = [Variant("tent"), Variant("ptbn")]
    assert found == {"mine": both, "other": both, "again": [Variant("ptbn")]}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"corruptions": ("fogg",)}, "unknown corruption 'fogg': did you mean fog"),
        ({"severities": (6,)}, "severity 6 does not exist"),
        ({"severities": (0,)}, "severity 0 does not exist"),
        ({"orders": ("shufled",)}, "unknown order 'shufled'"),
        ({"orders": ("shuffled", "growing-noise")}, "'growing-noise' needs a corruption"),
        ({"methods": ("ctaa",)}, "unknown method 'ctaa'"),
        ({"methods": ("source", "clust3")}, "made for cta, not for clust3"),
        ({"batch": 0}, "batch is 0"),
        ({"batch": 8, "window": 8}, "a window takes single images; give batch 1"),
        ({"batch": 1, "window": 1}, "a window of at least 2"),
        *(({name: ()}, f"no {name}") for name in ("corruptions", "severities", "orders", "seeds")),
    ],
    ids=str,
)
def test_bad_grids_are_refused(changes, expected, saved, data):
    with pytest.raises(InputError, match=expected):
        tasks_of(replace(GRID, **changes), {"b": saved}, data)


def test_bad_bundles_are_refused(saved, data, tmp_path):
    with pytest.raises(InputError, match="there is no bundle"):
        tasks_of(GRID, {}, data)
    with pytest.raises(InputError, match="does not exist"):
        tasks_of(GRID, {"b": tmp_path / "nowhere"}, data)
    with pytest.raises(InputError, match="does not exist"):
        checksum_of(tmp_path / "nowhere")
    ten = replace(data, classes=tuple("0123456789"))
    with pytest.raises(InputError, match="has the outputs 0 to 3"):
        tasks_of(GRID, {"b": saved}, ten)
    none = replace(data, images=data.images[:0], labels=torch.zeros(0, dtype=torch.long))
    with pytest.raises(InputError, match="no images"):
        tasks_of(GRID, {"b": saved}, none)
