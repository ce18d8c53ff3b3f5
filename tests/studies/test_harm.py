"""The harm suite: its streams, that a run resumes, and what is reported of it."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_guard import calibrate_on_few

from acclimate.data import LabelledImages
from acclimate.data.corruptions import PUBLISHED
from acclimate.errors import InputError
from acclimate.methods import METHODS
from acclimate.runtime import workers
from acclimate.source.held_out import SHIFTS

MODULES = ("harm", "harm_rows", "harm_answers", "harm_streams", "guard_orders", "bundles")


@pytest.fixture
def study(monkeypatch):
    """The study, which works in this process."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "studies"))
    import bundles
    import harm

    monkeypatch.setattr(bundles, "processes", lambda count: workers.here)
    yield harm
    for name in MODULES:
        sys.modules.pop(name, None)


def some(count, side=32, classes=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, side, side), generator=draw, dtype=torch.uint8)
    names = tuple("abcdefghij"[:classes])
    return LabelledImages(images, torch.arange(count) * classes // count, names, "some")


@pytest.fixture(scope="module")
def data():
    return some(600, 8, 10), some(100, 4, 10, seed=1)


@pytest.fixture
def streams(study):
    import harm_streams

    return harm_streams


def test_a_third_of_the_named_streams_is_measured_last(study, streams, tmp_path):
    reported = streams.REPORTED
    assert len(reported) >= 48
    assert {name for name, each in reported.items()} >= {n.replace("_", " ") for n in PUBLISHED}
    assert sum(each.last for each in reported.values()) == pytest.approx(len(reported) / 3, abs=0.5)
    arguments = study.Arguments("data", tmp_path, tmp_path)
    first, last = (study.streams(replace(arguments, kind=kind)) for kind in ("reporting", "last"))
    assert first.keys() | last.keys() == reported.keys() and not first.keys() & last.keys()
    assert set(arguments.methods) < METHODS.keys()
    with pytest.raises(InputError, match="unknown streams: nothing"):
        study.streams(replace(arguments, streams=("nothing",)))


def test_reported_streams_have_none_of_the_shifts_or_seeds_that_rules_were_chosen_with(streams):
    chosen = {each.make.keywords["seed"] for each in streams.CHOSEN_ON.values() if seeded(each)}
    for each in streams.REPORTED.values():
        words = each.make.keywords
        shifts = [*words.get("shifts", ()), words.get("shift", ("none", 0))]
        assert not {name for name, _ in shifts} & set(SHIFTS)
        assert words["seed"] not in chosen


def seeded(each):
    return "seed" in each.make.keywords


def test_each_stream_has_labels_and_numbers_beside_its_images(streams, data):
    images, other = data
    for name, each in streams.REPORTED.items():
        if each.count > 10_000:
            each = replace(each, count=each.count // 100, every=each.every // 100)
        each = replace(each, least=0, every=min(each.every, 64))
        batches = each.batches(images, other, 0.01)
        sizes = [len(part) for part, _, _ in batches]
        wanted = each.make.keywords.get("batch", 128)
        assert max(sizes) <= wanted and set(sizes[:-1]) <= {wanted, sizes[0]}, name
        for part, labels, numbers in batches:
            assert len(part) == len(labels) == len(numbers)
            assert part.dtype in (torch.uint8, torch.float32) and part.shape[1:] == (3, 8, 8)
            known = labels >= 0
            assert torch.equal(labels[known], images.labels[numbers[known]]), name
        labels = torch.cat([labels for _, labels, _ in batches])
        foreign = "third" in name or "within" in name or name == "only noise, then clean"
        assert bool((labels < 0).any()) == (foreign or name.startswith("black")), name
        count = len(labels)
        assert all(0 < place < count for place in each.switches(count))


def test_orders_and_frames_are_what_their_names_say(streams, data):
    def labels_of(name):
        batches = streams.REPORTED[name].batches(*data, 0.2)
        return torch.cat([labels for _, labels, _ in batches]), torch.cat([n for *_, n in batches])

    labels, _ = labels_of("sorted, clean")
    assert len(labels.unique_consecutive()) == 10
    assert len(labels_of("one class, fog")[0].unique()) == 1
    assert len(labels_of("constant frame")[1].unique()) == 1
    _, numbers = labels_of("frames 50 times")
    assert set(numbers.unique_consecutive(return_counts=True)[1][:-1].tolist()) == {50}
    counts = labels_of("label shift, clean")[0].bincount()
    assert counts.max() > 2 * counts.min()


def test_changes_are_judged_where_there_is_time_to_find_them(streams):
    judged = {name: each.judged_by(each.images(0.5)) for name, each in streams.REPORTED.items()}
    assert judged["clean"] == judged["mixed"] == "steady"
    assert judged["fog that ends"] == judged["noise for a third"] == "switches"
    for name in ("another shift in each batch", "sorted, clean", "20 visits of 3 shifts"):
        assert judged[name] == "nothing"
    assert streams.REPORTED["fog that ends"].switches(2000) == [1000]
    assert streams.REPORTED["another shift after 1,000 images"].switches(3000) == [1000, 2000]


def answers(right, seconds=1.0, changes=()):
    import harm_answers

    numbers = [*range(len(right))]
    return harm_answers.Answers([*right], numbers, seconds, len(right) // 2, 1, [*changes])


def test_gains_are_paired_and_images_of_no_class_do_not_count(study):
    found = {
        "fog": {
            "source": answers([1, 0, 0, 0, -1]),
            "tent": answers([1, 1, 1, 0, -1]),
            "guarded tent": answers([1, 1, 0, 0, -1]),
        },
        "one class": {
            "source": answers([1] * 200),
            "tent": answers([0] * 200),
            "guarded tent": answers([1] * 199 + [0]),
        },
        "half": {"source": answers([1]), "tent": answers([1])},
    }
    fog, one = study.compared(found, ("tent", "roid"))
    assert (fog["images"], fog["scored"], fog["frozen"], fog["guarded"]) == (5, 4, 25.0, 50.0)
    assert (fog["unguarded_gain"], fog["guarded_gain"]) == (50.0, 25.0)
    assert fog["unguarded_low"] <= 50 <= fog["unguarded_high"]
    assert (one["unguarded_gain"], one["guarded_gain"], one["adapted"]) == (-100.0, -0.5, 50.0)
    fog["unguarded_low"] = 1.0
    (total,) = study.totals([fog, one])
    assert (total["unguarded_worst"], total["unguarded_below"], total["unguarded_surely"]) == (
        "one class", 1, 1)  # fmt: skip
    assert (total["guarded_gain"], total["guarded_below"]) == (-0.5, 0)  # half a point may be
    assert (total["good"], total["kept"], total["least_kept_on"]) == (1, 50.0, "fog")


def test_changes_within_500_images_are_found_and_others_are_false(study, streams):
    def judged(name, count, changes):
        found = {name: {"guarded tent": answers([1] * count, changes=changes)}}
        (row,) = study.changes(found, streams.REPORTED)
        return [row[part] for part in ("judged_by", "switches", "found", "told", "false")]

    assert judged("fog that ends", 2000, [1400, 1450]) == ["switches", 1, 1, 2, 1]
    assert judged("fog that ends", 2000, [1501]) == ["switches", 1, 0, 1, 1]
    assert judged("fog that ends", 2000, [1000]) == ["switches", 1, 0, 1, 1]
    assert judged("clean", 2000, [700]) == ["steady", 0, 0, 1, 1]
    assert judged("sorted, clean", 2000, [700]) == ["nothing", 0, 0, 1, ""]


def test_a_run_resumes_and_keeps_its_results(study, bundle_of, tmp_path, monkeypatch, capsys):
    calibrate_on_few(monkeypatch, images=32)
    bundle = bundle_of("acclimate")
    classes = len(bundle.classes)
    monkeypatch.setattr(study, "load", lambda *given: some(1200, 32, classes))
    bundle.save(tmp_path / "bundle")
    arguments = study.Arguments(
        "data", tmp_path / "bundle", tmp_path / "out", tmp_path / "results", "small",
        methods=("acclimate", "ptbn"), streams=("clean", "constant frame"), share=0.01,
        device="cpu", workers=1,
    )  # fmt: skip
    study.main(replace(arguments, plan=True))
    assert "10 of 10 streams are missing" in capsys.readouterr().out
    with pytest.raises(InputError, match="nothing is measured yet"):
        study.main(replace(arguments, measure=False))
    first = study.measure

    def interrupted(given, unit):
        if unit.guarded and unit.method == "ptbn":
            raise KeyboardInterrupt
        first(given, unit)

    monkeypatch.setattr(study, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        study.main(arguments)
    study.main(replace(arguments, measure=False))
    assert {row["method"] for row in rows(tmp_path, "reporting")} == {"acclimate"}
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")}
    monkeypatch.setattr(study, "measure", first)
    study.main(arguments)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    found = rows(tmp_path, "reporting")
    assert [(row["stream"], row["method"]) for row in found] == [
        (stream, method) for stream in arguments.streams for method in arguments.methods
    ]
    assert {row["scored"] for row in found} == {"512"}
    assert len(rows(tmp_path, "reporting_summary")) == len(rows(tmp_path, "reporting_changes")) == 2
    record = json.loads((tmp_path / "results" / "small" / "reporting.json").read_text())
    assert record["options"]["share"] == 0.01 and "frozen_below" in record["rules"]
    one = study.read(arguments)["clean"]
    assert np.mean(one["guarded ptbn"].right) * 100 == pytest.approx(
        float(found[1]["guarded"]), abs=0.01
    )


def rows(folder, name):
    with (folder / "results" / "small" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))
