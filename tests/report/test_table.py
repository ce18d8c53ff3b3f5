import re

import pytest
from rich.console import Console

from acclimate.report.comparison import compare
from acclimate.report.table import show_table

CORRUPTIONS = (
    "none", "gaussian_noise", "impulse_noise", "motion_blur", "elastic_transform",
    "jpeg_compression", "brightness", "contrast",
)  # fmt: skip


@pytest.fixture
def shown():
    def shown(cells, width=120, held_out=()):
        console = Console(width=width, force_terminal=True, color_system="standard")
        with console.capture() as capture:
            show_table(compare(cells, held_out), console)
        return capture.get()

    return shown


def plain(text):
    return re.sub(r"\x1b\[[\d;]*m", "", text)


@pytest.mark.parametrize("width", [64, 120])
def test_the_table_fits_and_marks_the_best(width, shown, measured, share):
    methods = ("source", "ptbn", "tent", "aligned-bn", "cta")
    cells = [
        measured(method, corruption, share(50 + i, 100))
        for i, method in enumerate(methods)
        for corruption in CORRUPTIONS
    ]
    text = shown(cells, width)
    assert len(re.findall(r"\x1b\[1m +54\.0\x1b\[0m", text)) == 9  # eight columns and a mean
    assert not re.search(r"\x1b\[1m +53\.0", text)
    assert plain(text).count("53.0") == 9
    assert "…" not in text
    assert ("corruption" in text, "method" in text) == (width == 64, width == 120)


def test_what_was_not_measured_is_a_dash_and_leaves_no_mean(shown, measured, share):
    cells = [measured("source", name, share(10)) for name in ("none", "fog", "contrast")]
    cells += [measured("tent", name, share(12)) for name in ("none", "fog")]
    rows = [line.split() for line in plain(shown(cells)).splitlines()]
    assert ["source", "50.0", "50.0", "50.0", "50.0"] in rows
    assert ["tent", "60.0", "–", "60.0", "–"] in rows


def test_what_does_not_count_is_explained(shown, measured, share):
    cells = [measured(m, n, share(9)) for m in ("source", "tent") for n in ("fog", "saturate")]
    few = measured("ttt", "fog", share(1, 2), images="few")
    text = plain(shown([*cells, few], held_out=("saturate",)))
    assert "50.0†" in text
    assert "saturate: kept apart for choosing settings, not in the mean." in text
    assert "†: measured on other images than most, not compared." in text
    assert "†" not in plain(shown(cells))


def test_seeds_show_their_deviation(shown, measured, share):
    cells = [measured("tent", "fog", share(n), seed=s) for s, n in enumerate((9, 11))]
    assert "50.0 ± 7.1" in plain(shown(cells))
