"""Methods that lose on clean images or on the mean are named, in the terminal and on the page."""

import io

import pytest
from rich.console import Console

from acclimate.commands.bench import show_results
from acclimate.evaluate.variant import Variant
from acclimate.methods.changes import settings_record
from acclimate.report.cards import cards_of
from acclimate.report.comparison import compare
from acclimate.report.page import Report, write_page
from acclimate.report.warnings import warnings_of

METHODS = ("source", "ptbn", "tent", "cta")


@pytest.fixture(scope="module")
def cells(measured, share):
    """``cta`` gains 20 points of 200 under corruption and loses 9 on clean images."""
    clean = {"source": 180, "ptbn": 179, "tent": 180, "cta": 162}
    foggy = {"source": 80, "ptbn": 90, "tent": 70, "cta": 120}
    return [
        measured(method, condition, share(counts[method], 200))
        for method in METHODS
        for condition, counts in (("none", clean), ("fog", foggy))
    ]


def test_what_is_worse_than_frozen_is_named_with_intervals(cells):
    warnings = warnings_of(compare(cells), batch=128)
    assert len(warnings) == 2  # ptbn loses half a point on clean images
    tent, cta = warnings
    assert tent.startswith("tent against the frozen classifier: +0.0 [")
    assert "−5.0 [" in tent and "on the mean" in tent
    assert cta.startswith("cta against the frozen classifier: −9.0 [")
    assert "+20.0 [" in cta


def test_batches_too_small_for_statistics_are_the_reason(measured, share):
    cells = [
        measured(method, condition, share(count, 40), batch=1)
        for method, count in (("source", 30), ("ptbn", 0), ("tent", 0))
        for condition in ("none", "fog")
    ]
    warnings = warnings_of(compare(cells), batch=1)
    assert [text.split()[0] for text in warnings] == ["ptbn", "tent"]
    assert all("1 image is too few" in text and "normalisation.prior=" in text for text in warnings)
    said = io.StringIO()
    show_results(cells, (), Console(file=said, width=200))
    assert said.getvalue().count("1 image is too few") == 2


def test_controls_at_learning_rate_0_are_not_warned_of(measured, share):
    control = "cta:update.learning_rate=0"
    cells = [measured("source", "fog", share(9)), measured(control, "fog", share(5))]
    assert warnings_of(compare(cells), batch=128) == []


def test_the_page_tells_the_loss_on_clean_images_beside_the_gain(cells, tmp_path):
    settings = {name: settings_record(Variant(name).settings) for name in METHODS}
    write_page(tmp_path / "p.html", Report("T", cells, settings, {}))
    text = " ".join((tmp_path / "p.html").read_text().split())
    lead = text.split('<p class="lead">')[1].split("</p>")[0]
    assert "<b>cta</b>" in lead and "+20.0 [" in lead and "−9.0 [" in lead
    assert "on clean images" in lead
    warned = text.split('class="warned"')[1].split("</div>")[0]
    assert warned.count("<li>") == 2 and "cta against the frozen" in warned
    (card,) = [c for c in cards_of(cells, settings, compare(cells)) if c.name == "cta"]
    assert len(card.gains) == 1
    assert "+20.0" in card.gains[0] and "−9.0" in card.gains[0]
    assert card.gains[0].split(",")[0] in text


def test_without_clean_images_the_page_says_so(measured, share, tmp_path):
    cells = [measured("source", "fog", share(5)), measured("ptbn", "fog", share(9))]
    settings = {name: settings_record(Variant(name).settings) for name in ("source", "ptbn")}
    write_page(tmp_path / "p.html", Report("T", cells, settings, {}))
    assert "on clean images not measured" in (tmp_path / "p.html").read_text()


def test_a_variant_is_compared_with_the_frozen_classifier_of_its_precision(measured, share):
    cells = [
        measured("source", "fog", share(5)),
        measured("source:precision=fp32", "fog", share(8)),
        measured("ptbn:precision=fp32", "fog", share(10)),
        measured("ptbn:precision=fp32,normalisation.prior=16", "fog", share(12)),
        measured("ptbn", "fog", share(10)),
        measured("ptbn:precision=bf16", "fog", share(9)),
    ]
    rows = {row.name: row.gain for row in compare(cells).rows}
    assert rows["source"] is rows["source:precision=fp32"] is None
    gains = {name: round(100 * gain.difference) for name, gain in rows.items() if gain}
    assert gains == {
        "ptbn": 25,
        "ptbn:precision=fp32": 10,
        "ptbn:normalisation.prior=16,precision=fp32": 20,
        "ptbn:precision=bf16": 20,  # no frozen one of this precision was measured
    }
    statistics = {row.name: row.statistics for row in compare(cells).rows}
    prior = statistics["ptbn:normalisation.prior=16,precision=fp32"]
    assert prior.difference == pytest.approx(0.1)  # of ptbn in fp32
