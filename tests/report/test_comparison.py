import csv
import io
import math
import statistics
from dataclasses import replace

import pytest

from acclimate.evaluate.variant import Variant
from acclimate.report.comparison import compare
from acclimate.report.exports import as_csv, points
from acclimate.report.gains import gain_between


def row_of(table, name):
    (row,) = [row for row in table.rows if row.name == name]
    return row


@pytest.fixture
def cells(measured, share):
    """Of 20 images each: fog, noise."""
    right = {
        "source": (10, 4), "ptbn": (12, 10), "tent": (13, 10), "uda-ss": (20, 20),
    }  # fmt: skip
    return [
        measured(method, corruption, share(count))
        for method, counts in right.items()
        for corruption, count in zip(("fog", "gaussian_noise"), counts)
    ] + [measured("source", "none", share(18)), measured("tent", "none", share(17))]


def test_accuracies_and_their_mean(cells):
    table = compare(cells)
    assert [column.name for column in table.columns][:2] == ["clean", "mean"]
    assert table.score(row_of(table, "tent"), "mean").mean == pytest.approx(23 / 40)
    assert table.score(row_of(table, "tent"), "clean").mean == pytest.approx(17 / 20)
    assert table.score(row_of(table, "ptbn"), "clean") is None
    assert table.score(row_of(table, "ptbn"), "nothing") is None


def test_a_row_that_lacks_a_corruption_has_no_mean(cells):
    table = compare([c for c in cells if c.row[1] != Variant("tent") or c.cell.corruption != "fog"])
    assert table.score(row_of(table, "tent"), "mean") is None
    assert row_of(table, "tent").lead is None


def test_an_oracle_is_never_the_best_nor_whom_others_are_compared_to(cells):
    table = compare(cells)
    mean = [column.name for column in table.columns].index("mean")
    ranks = {row.name: table.rank(row, mean) for row in table.rows}
    assert ranks == {"source": 0, "ptbn": 2, "tent": 1, "uda-ss": 0}
    assert row_of(table, "tent").lead == pytest.approx(1 / 40)
    assert row_of(table, "ptbn").lead == pytest.approx(-1 / 40)
    assert row_of(table, "uda-ss").lead is None and row_of(table, "uda-ss").oracle


def test_a_control_at_learning_rate_0_is_no_competitor(measured, share):
    cells = [
        measured("source", "fog", share(5)),
        measured("tent:update.learning_rate=0", "fog", share(9)),
    ]
    table = compare([*cells, measured("tent", "fog", share(8))])
    assert table.rank(row_of(table, "tent"), 0) == 1
    assert table.rank(row_of(table, "tent:update.learning_rate=0"), 0) == 0
    assert row_of(table, "tent").lead == pytest.approx(3 / 20)


def test_ties_as_shown_share_a_place(measured, share):
    cells = [measured(m, "fog", share(n)) for m, n in [("source", 5), ("ptbn", 9), ("tent", 9)]]
    table = compare(cells)
    assert [table.rank(row, 0) for row in table.rows] == [2, 1, 1]


def test_the_lead_is_over_other_methods_not_over_other_bundles(measured, share):
    cells = [
        measured("source", "fog", share(5)),
        measured("tent", "fog", share(8)),
        measured("tent", "fog", share(12), bundle="other"),
    ]
    table = compare(cells)
    assert {row.name for row in table.rows} == {"source", "tent · b", "tent · other"}
    assert row_of(table, "tent · other").lead == pytest.approx(7 / 20)
    assert row_of(table, "tent · b").lead == pytest.approx(3 / 20)


def test_several_seeds_have_mean_and_deviation(measured, share):
    counts = [(10, 12), (11, 8), (15, 13)]
    cells = [
        measured("tent", corruption, share(count), seed=seed)
        for seed, pair in enumerate(counts)
        for corruption, count in zip(("fog", "contrast"), pair)
    ]
    table = compare(cells)
    score = table.score(table.rows[0], "mean")
    means = [sum(pair) / 40 for pair in counts]
    assert score.mean == pytest.approx(statistics.mean(means))
    assert score.deviation == pytest.approx(statistics.stdev(means))
    assert table.score(table.rows[0], "fog").deviation == pytest.approx(
        statistics.stdev([0.5, 0.55, 0.75])
    )
    assert compare(cells[:2]).rows[0].scores[0].deviation is None


def test_fewer_images_are_kept_but_compared_with_nothing_else(measured, share):
    cells = [
        measured("source", "fog", share(10)),
        measured("tent", "fog", share(11)),
        measured("source", "fog", share(1, 4), images="few"),
        measured("ttt", "fog", share(4, 4), images="few"),
    ]
    table = compare(cells)
    few = row_of(table, "ttt")
    assert few.elsewhere and not row_of(table, "source").elsewhere
    assert few.scores[0].images == 4 and table.score(few, "fog").mean == 1
    assert table.rank(few, 0) == 0 and few.lead is None
    assert table.rank(row_of(table, "tent"), 0) == 1
    # Against the frozen classifier on these four images: three more are right.
    assert few.gain.difference == pytest.approx(3 / 4)
    assert row_of(table, "tent").gain.difference == pytest.approx(1 / 20)
    assert table.score(row_of(table, "source"), "fog").images == 20


def test_gains_are_over_the_same_bundle_and_statistics_stand_beside_them(measured, share):
    cells = [
        measured(method, "fog", share(count), bundle=bundle)
        for bundle, method, count in [
            ("one", "source", 4), ("one", "ptbn", 9), ("one", "tent", 10),
            ("two", "source", 6), ("two", "aligned-bn", 14), ("two", "cta", 15),
            ("three", "tent", 3),
        ]
    ]  # fmt: skip
    table = compare(cells)
    tent, cta = row_of(table, "tent · one"), row_of(table, "cta")
    assert tent.gain.difference == pytest.approx(6 / 20)
    assert tent.statistics.difference == pytest.approx(5 / 20)
    assert cta.gain.difference == pytest.approx(9 / 20)
    assert cta.statistics.difference == pytest.approx(8 / 20)
    assert tent.gain.low <= tent.gain.difference <= tent.gain.high
    assert row_of(table, "tent · three").gain is None
    assert row_of(table, "source · one").gain is None


def test_a_gain_over_fewer_corruptions_is_none(measured, share):
    mine = [measured("tent", name, share(9)) for name in ("fog", "contrast")]
    base = [measured("source", "fog", share(5))]
    assert gain_between(mine, base) is None
    assert gain_between(mine[:1], base).difference == pytest.approx(4 / 20)
    assert gain_between([], base) is None


def test_without_answers_a_gain_has_no_interval(measured, share):
    mine, base = ([measured(name, "fog", share(n))] for name, n in (("tent", 9), ("source", 5)))
    bare = [each._replace(cell=replace(each.cell, answers=None)) for each in base]
    gain = gain_between(mine, bare)
    assert gain.difference == pytest.approx(4 / 20) and math.isnan(gain.low + gain.high)
    table = compare([*mine, *bare])
    assert points(row_of(table, "tent").gain) == "+20.0"
    (row,) = [r for r in csv.DictReader(io.StringIO(as_csv(table))) if r["method"] == "tent"]
    assert (row["gain_low"], row["gain_high"]) == ("", "") and float(row["gain"]) == gain.difference


def test_the_best_iteration_is_chosen_for_each_corruption(measured, share):
    cells = [
        measured("tent", "fog", share(10), curve=(0.6, 0.5)),
        measured("tent", "contrast", share(12), curve=(0.3, 0.6)),
        measured("source", "fog", share(1)),
        measured("source", "contrast", share(1)),
    ]
    table = compare(cells)
    assert row_of(table, "tent").best_iteration.mean == pytest.approx(0.6)
    assert table.score(row_of(table, "tent"), "mean").mean == pytest.approx(0.55)
    assert row_of(table, "source").best_iteration is None


def test_held_out_corruptions_are_in_no_mean_and_no_gain(measured, share):
    cells = [
        measured(method, corruption, share(count))
        for method, corruption, count in [
            ("source", "fog", 5), ("source", "saturate", 1),
            ("tent", "fog", 6), ("tent", "saturate", 20),
        ]
    ]  # fmt: skip
    table = compare(cells, ["saturate"])
    assert [(c.name, c.kind) for c in table.columns] == [
        ("mean", "mean"), ("fog", "reported"), ("saturate", "held out"),
    ]  # fmt: skip
    tent = row_of(table, "tent")
    assert table.score(tent, "mean").mean == pytest.approx(6 / 20)
    assert tent.gain.difference == pytest.approx(1 / 20)


def test_streams_that_pass_through_severities_are_averaged(measured, share):
    cells = [
        measured("tent", "fog", share(n), order="gradual", severity=s) for s, n in [(1, 12), (2, 8)]
    ]
    assert compare(cells).rows[0].scores[0].mean == pytest.approx(0.5)


def test_baselines_of_all_bundles_but_one_are_repeated(measured, share):
    counts = {
        ("a", "source"): 5, ("a", "ptbn"): 9, ("a", "cta"): 8, ("b", "source"): 5,
        ("b", "ptbn"): 6, ("b", "tent"): 7, ("c", "source"): 4, ("c", "ptbn"): 5, ("c", "y"): 6,
    }  # fmt: skip
    cells = [measured(m, "fog", share(n), bundle=b) for (b, m), n in counts.items()]

    def repeated(some):
        return {(bundle, str(variant)) for bundle, variant in compare(some).repeated()}

    # The bundle of tent is the plain one; the statistics of a have the best mean of all.
    assert repeated(cells) == {("a", "source"), ("c", "source"), ("c", "ptbn")}
    without = [each for each in cells if each.row[0] != "b"]
    assert repeated(without) == {("c", "source"), ("c", "ptbn")}
    assert repeated([each for each in cells if each.row[0] == "b"]) == set()
