import re

import numpy as np
import pytest
from rich.console import Console

from acclimate.errors import InputError
from acclimate.evaluate.cell import Answers, Cell
from acclimate.report.summary import gains_of, paired, summarise
from acclimate.report.table import show_table

HELD_OUT = ("speckle_noise",)


def cell(method, corruption, accuracy, *, seed=0, answers=None, dataset="fashion", severity=5):
    return Cell(
        method=method, bundle="b", dataset=dataset, corruption=corruption,
        severity=0 if corruption == "none" else severity, order="shuffled", seed=seed, batch=4,
        accuracy=accuracy, ece=0.1, nll=1.0, n_images=4, steps=0, seconds=1.0,
        images_per_second=4.0, peak_memory=0, refused_steps=0, answers=answers,
    )  # fmt: skip


def answered(right, numbers=None):
    """Answers to images that came in this order; by default in that of the data set."""
    right = np.array(right, bool)
    places = np.arange(len(right))
    numbers = places if numbers is None else np.array(numbers)
    return Answers(places, numbers, places, places.astype(np.float32), right)


def grid(method, *accuracies):
    names = ("none", "gaussian_noise", "fog", "speckle_noise")
    return [cell(method, name, accuracy) for name, accuracy in zip(names, accuracies)]


CELLS = grid("source", 0.9, 0.5, 0.7, 0.1) + grid("cta", 0.8996, 0.6, 0.6, 0.2)


def test_the_mean_excludes_clean_and_held_out():
    summary = summarise(CELLS, ["source", "cta"], HELD_OUT)
    assert [column.name for column in summary.columns] == [
        "clean", "mean", "gaussian_noise", "fog", "speckle_noise",
    ]  # fmt: skip
    assert [column.kind for column in summary.columns][-2:] == ["reported", "held out"]
    assert summary.value("source", "mean") == pytest.approx((0.5 + 0.7) / 2)
    assert summary.value("cta", "mean") == pytest.approx(0.6)
    assert summarise(CELLS, ["source"]).value("source", "mean") == pytest.approx(1.3 / 3)


def test_rows_follow_the_given_order_without_absent_methods():
    assert summarise(CELLS, ["tent", "cta", "source"]).methods == ("cta", "source")
    assert summarise(CELLS, ["cta"]).methods == ("cta",)


def test_seeds_and_severities_are_averaged():
    cells = [cell("cta", "fog", a, seed=s, severity=v) for a, s, v in
             [(0.2, 0, 5), (0.4, 1, 5), (0.6, 0, 4), (0.8, 1, 4)]]  # fmt: skip
    assert summarise(cells, ["cta"]).value("cta", "fog") == pytest.approx(0.5)


def test_what_was_not_measured_is_a_dash_and_leaves_no_mean():
    summary = summarise(CELLS[:-2], ["source", "cta"], HELD_OUT)
    assert np.isnan(summary.value("cta", "fog")) and np.isnan(summary.value("cta", "mean"))
    assert summary.texts()[1] == ["90.0", "–", "60.0", "–", "–"]
    assert summary.best()[:, 1].tolist() == [True, False]


def test_the_best_of_each_column_is_marked_and_ties_as_shown_share_it():
    best = summarise(CELLS, ["source", "cta"], HELD_OUT).best()
    assert best.tolist() == [[True, True, False, True, False], [True, True, True, False, True]]


def test_refuses_a_table_over_two_data_sets_or_of_nothing():
    with pytest.raises(InputError, match="cifar10, fashion"):
        summarise([*CELLS, cell("cta", "fog", 0.5, dataset="cifar10")], ["cta"])
    with pytest.raises(InputError, match="no results"):
        summarise(CELLS, ["tent"])


def test_gains_are_paired_differences_over_the_reported_corruptions():
    right = {
        "source": [[1, 0, 0, 0], [1, 1, 0, 0]],
        "ptbn": [[1, 1, 1, 0], [1, 1, 1, 0]],
        "cta-lr0": [[1, 1, 1, 1], [1, 1, 1, 0]],
        "cta": [[1, 1, 1, 1], [1, 1, 1, 0]],
    }
    cells = []
    for method, (noise, fog) in right.items():
        cells += [cell(method, "noise", 0.0, answers=answered(noise))]
        cells += [cell(method, "fog", 0.0, answers=answered(fog))]
        elsewhere = answered([method == "source"] * 4)
        cells += [cell(method, corruption, 0.0, answers=elsewhere) for corruption in ("none", "x")]
    statistics, steps = gains_of(cells, held_out=("x",))  # no aligned-bn: no such part
    assert statistics.label == "batch statistics alone"
    assert statistics.difference == pytest.approx(3 / 8)
    # The gain of each image over both corruptions is 0, 1, 2, 0 of 2.
    assert 0 <= statistics.low < 3 / 8 < statistics.high <= 1
    assert (steps.label, steps.difference, steps.low, steps.high) == ("gradient steps", 0, 0, 0)


def test_answers_pair_by_image_in_whatever_order_they_came():
    first = cell("cta", "fog", 0.5, answers=answered([1, 1, 0], [5, 2, 9]))
    second = cell("source", "fog", 0.5, answers=answered([1, 0, 0], [2, 9, 5]))
    one, other, images = paired(first, second)
    assert images.tolist() == [2, 5, 9]
    assert (one.tolist(), other.tolist()) == ([True, True, False], [True, False, False])


def test_an_image_that_came_again_pairs_with_the_same_time():
    first = cell("cta", "fog", 0.5, answers=answered([1, 1, 0, 0], [7, 3, 3, 7]))
    second = cell("source", "fog", 0.5, answers=answered([0, 1, 0, 1], [7, 3, 3, 7]))
    one, other, images = paired(first, second)
    assert images.tolist() == [3, 3, 7, 7]
    assert one.tolist() == [True, False, True, False]
    assert other.tolist() == [True, False, False, True]


def test_gains_refuse_answers_to_other_images():
    some = cell("source", "fog", 0.5, answers=answered([0, 1]))
    for others in (answered([0, 1], [0, 2]), answered([0, 1, 1])):
        with pytest.raises(ValueError, match="answered for other images under fog: "):
            gains_of([some, cell("ptbn", "fog", 0.5, answers=others)], held_out=())


@pytest.mark.parametrize("width", [64, 120])
def test_the_terminal_table_fits_and_marks_the_best(width):
    console = Console(width=width, force_terminal=True, color_system="standard")
    methods = [f"method-{i}" for i in range(5)]
    cells = [
        cell(m, c, 0.5 + 0.01 * i)
        for i, m in enumerate(methods)
        for c in ("none", *(f"longcorruption_{k}" for k in range(3)))
    ]
    with console.capture() as capture:
        show_table(summarise(cells, methods), console)
    text = capture.get()
    assert len(re.findall(r"\x1b\[1m +54\.0\x1b\[0m", text)) == 5
    assert not re.search(r"\x1b\[1m +53\.0", text)
    assert text.count("53.0") == 5
    assert "…" not in text
