from dataclasses import replace

import numpy as np
import pytest

from acclimate.evaluate.cell import Answers
from acclimate.report.gains import gain_between, paired, parts_of

STILL = "cta:update.learning_rate=0"


def answered(each, right, numbers=None):
    """The same cell with answers to images that came in this order."""
    right = np.array(right, bool)
    places = np.arange(len(right))
    numbers = places if numbers is None else np.array(numbers)
    answers = Answers(places, numbers, places, places.astype(np.float32), right)
    return each._replace(cell=replace(each.cell, answers=answers))


@pytest.fixture
def fog(measured):
    def fog(method, right, numbers=None):
        return answered(measured(method, "fog", right), right, numbers)

    return fog


RIGHT = {
    "source": [[1, 0, 0, 0], [1, 1, 0, 0]],
    "ptbn": [[1, 1, 1, 0], [1, 1, 1, 0]],
    STILL: [[1, 1, 1, 1], [1, 1, 1, 0]],
    "cta": [[1, 1, 1, 1], [1, 1, 1, 0]],
}


@pytest.fixture
def cells(measured):
    """Two corruptions that count, one that does not, and clean images."""

    def cells(bundle="b"):
        found = []
        for method, (noise, fog) in RIGHT.items():
            elsewhere = [method == "source"] * 4
            for name, right in (
                ("gaussian_noise", noise), ("fog", fog), ("none", elsewhere), ("snow", elsewhere)
            ):  # fmt: skip
                found.append(measured(method, name, right, bundle=bundle))
        return found

    return cells


def test_parts_are_paired_differences_over_the_reported_corruptions(cells):
    found = parts_of(cells(), held_out=("snow",))  # no aligned-bn: no such part
    (first, statistics), (second, steps) = found
    assert (first, second) == ("batch statistics alone", "cta: gradient steps")
    assert statistics.difference == pytest.approx(3 / 8)
    # The gain of each image over both corruptions is 0, 1, 2, 0 of 2.
    assert 0 <= statistics.low < 3 / 8 < statistics.high <= 1
    assert (steps.difference, steps.low, steps.high) == (0, 0, 0)


def test_parts_need_answers_and_a_control(cells):
    whole = cells()
    assert parts_of([each for each in whole if str(each.cell.variant) != STILL]) == []
    bare = [each._replace(cell=replace(each.cell, answers=None)) for each in whole]
    assert parts_of(bare) == []


def test_parts_of_several_bundles_carry_their_names(cells):
    labels = [label for label, _ in parts_of([*cells("a"), *cells("b")])]
    assert labels == [
        "batch statistics alone · a", "cta: gradient steps · a",
        "batch statistics alone · b", "cta: gradient steps · b",
    ]  # fmt: skip


def test_domains_pair_with_themselves(measured):
    mine = [measured("tent", name, [1, 1, 0, 0]) for name in ("fog/5", "fog/3")]
    base = [measured("source", "fog/5", [1, 0, 0, 0]), measured("source", "fog/3", [0, 0, 0, 0])]
    assert gain_between(mine, base[::-1]).difference == pytest.approx(3 / 8)
    assert gain_between(mine, base[:1]) is None


def test_answers_pair_by_image_in_whatever_order_they_came(fog):
    first = fog("cta", [1, 1, 0], [5, 2, 9])
    second = fog("source", [1, 0, 0], [2, 9, 5])
    one, other, images = paired(first.cell, second.cell)
    assert images.tolist() == [2, 5, 9]
    assert (one.tolist(), other.tolist()) == ([True, True, False], [True, False, False])


def test_an_image_that_came_again_pairs_with_the_same_time(fog):
    first = fog("cta", [1, 1, 0, 0], [7, 3, 3, 7])
    second = fog("source", [0, 1, 0, 1], [7, 3, 3, 7])
    one, other, images = paired(first.cell, second.cell)
    assert images.tolist() == [3, 3, 7, 7]
    assert one.tolist() == [True, False, True, False]
    assert other.tolist() == [True, False, False, True]


def test_gains_refuse_answers_to_other_images(fog):
    some = fog("source", [0, 1])
    for other in (fog("ptbn", [0, 1], [0, 2]), fog("ptbn", [0, 1, 1])):
        with pytest.raises(ValueError, match="answered for other images under fog: "):
            gain_between([other], [some])
