import math
from dataclasses import replace

import numpy as np
import pytest

from acclimate.report.against import against, results_of
from acclimate.report.intervals import paired_interval

MANIFEST = {"bundles": {"b": {"weights_sha256": "w"}}, "cards": {}}
A, B = [1, 1, 0, 0, 0, 1], [1, 1, 1, 0, 1, 1]


def compared(first, second):
    return against(*(results_of(side, MANIFEST) for side in (first, second)))


def test_the_same_results_do_not_differ(measured):
    cells = [measured(method, "fog", A) for method in ("tent", "source")]
    found = compared(cells, cells)
    assert found.same
    assert [pair.name for pair in found.pairs] == ["tent", "source"]


def test_other_accuracies_of_the_same_cards_differ(measured):
    found = compared([measured("tent", "fog", A)], [measured("tent", "fog", B)])
    (pair,) = found.pairs
    assert pair.fields == () and not pair.same and not found.same
    (fog,) = pair.beside
    expected = paired_interval(np.array(A, bool), np.array(B, bool), groups=np.arange(6))
    assert (fog.label, fog.first, fog.second) == ("fog 5", 3 / 6, 5 / 6)
    assert (fog.gain.difference, fog.gain.low, fog.gain.high) == pytest.approx(expected)


def test_the_mean_is_over_the_corruptions_that_both_have(measured):
    def side(right, *names):
        return [measured("tent", name, right, batch=len(names)) for name in names]

    found = compared(side(A, "fog", "snow", "none"), side(B, "fog", "snow", "contrast", "none"))
    (pair,) = found.pairs
    assert [each.label for each in pair.beside] == ["mean", "fog 5", "snow 5", "none"]
    assert pair.missing == ("contrast 5",)
    mean = pair.beside[0]
    both = [np.array(right * 2, bool) for right in (A, B)]
    expected = paired_interval(*both, groups=np.tile(np.arange(6), 2))
    assert (mean.gain.difference, mean.gain.low, mean.gain.high) == pytest.approx(expected)
    assert [each.words for each in pair.fields] == ["batch size"]


def test_streams_in_other_orders_are_paired_by_image(measured):
    one = measured("tent", "fog", A)
    other = measured("tent", "fog", B, order="continual")
    turned = replace(
        other.cell.answers,
        numbers=other.cell.answers.numbers[::-1].copy(),
        right=other.cell.answers.right[::-1].copy(),
    )
    other = other._replace(cell=replace(other.cell, answers=turned))
    (pair,) = compared([one], [other]).pairs
    expected = paired_interval(np.array(A, bool), np.array(B, bool), groups=np.arange(6))
    assert pair.beside[0].gain.low == pytest.approx(expected[1])
    assert {each.words for each in pair.fields} == {"protocol", "reset"}


@pytest.mark.parametrize("why", ["images", "seed", "answers", "count"])
def test_there_is_no_interval_where_the_images_are_not_the_same(why, measured):
    one = measured("tent", "fog", A)
    changes = {"images": {"images": "other"}, "seed": {"seed": 4}}.get(why, {})
    other = measured("tent", "fog", [*B, 1] if why == "count" else B, **changes)
    if why == "answers":
        other = other._replace(cell=replace(other.cell, answers=None))
    (pair,) = compared([one], [other]).pairs
    gain = pair.beside[0].gain
    assert math.isnan(gain.low) and math.isnan(gain.high)
    assert gain.difference == pytest.approx(one.cell.accuracy - other.cell.accuracy)


def test_only_the_seeds_that_both_have_count(measured):
    one = [measured("tent", "fog", A), measured("tent", "fog", B, seed=1)]
    (pair,) = compared(one, [measured("tent", "fog", B, seed=1)]).pairs
    assert (pair.beside[0].first, pair.beside[0].second) == (5 / 6, 5 / 6)
    assert [each.words for each in pair.fields] == ["seeds"]


def test_the_nearest_cards_are_paired_and_the_rest_is_named(measured):
    one = [measured("tent", "fog", A, batch=batch) for batch in (128, 16)]
    other = [measured("tent", "fog", A, batch=16), measured("source", "fog", A)]
    found = compared(one, other)
    (pair,) = found.pairs
    assert pair.fields == () and pair.same
    assert (found.only_first, found.only_second) == (("tent",), ("source",))
    assert not found.same


def test_of_a_method_on_each_side_the_two_are_compared(measured):
    found = compared([measured("tent", "fog", B)], [measured("tent:steps=0", "fog", A)])
    (pair,) = found.pairs
    assert pair.name == "tent | tent:steps=0"
    assert [each.words for each in pair.fields] == ["method", "setting steps"]
