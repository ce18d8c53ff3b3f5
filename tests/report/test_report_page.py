import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from acclimate.evaluate.cell import Cell
from acclimate.report.figures import (
    accuracy_figure,
    iterations_by_corruption,
    iterations_figure,
    result_picture,
)
from acclimate.report.page import write_page
from acclimate.report.samples import Sample
from acclimate.report.summary import Gain, summarise

METHODS = ["source", "cta", "<b>&mine"]
CORRUPTIONS = ("none", "gaussian_noise", "fog", "speckle_noise")
EVIL = "<script>alert(1)</script>"


def cells():
    rows = []
    for m, method in enumerate(METHODS):
        for c, corruption in enumerate(CORRUPTIONS):
            accuracy = 0.9 - 0.1 * c + 0.05 * m
            curve = (accuracy - 0.02, accuracy - 0.01, accuracy) if m else ()
            rows.append(
                Cell(
                    method=method, bundle="b", dataset="fashion", corruption=corruption,
                    severity=5 if c else 0, order="shuffled", seed=0, batch=128, accuracy=accuracy,
                    ece=0.1, nll=0.5, n_images=2000, steps=2, seconds=1.0, images_per_second=2000.0,
                    peak_memory=0, refused_steps=0, curve=curve,
                )
            )  # fmt: skip
    return rows


def sample(size=28):
    image = torch.randint(0, 256, (3, size, size), generator=torch.Generator().manual_seed(0))
    image = image.to(torch.uint8)
    return Sample(image, 255 - image, "fog", EVIL, EVIL, 0.625, "coat", 0.874)


def page(folder, **changes):
    arguments = {
        "title": f"Report {EVIL}",
        "cells": cells(),
        "methods_order": METHODS,
        "held_out": ("speckle_noise",),
        "samples": [sample()],
        "gains": [Gain("gradient steps", 0.012, -0.003, 0.02)],
        "provenance": {"seed": 7, "settings": {"steps": 3, EVIL: EVIL}},
        "classes": ["coat", EVIL],
    } | changes
    write_page(folder / "report.html", **arguments)
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return page(tmp_path_factory.mktemp("page"))


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.unbalanced = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in ("meta", "img", "br", "path", "use"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += [(tag, *pair) for pair in attributes]

    def handle_endtag(self, tag):
        if tag not in ("path", "use") and self.open.pop() != tag:
            self.unbalanced.append(tag)


def test_the_page_needs_nothing_from_elsewhere(text):
    tags = Tags(text)
    links = [
        (tag, value)
        for tag, name, value in tags.attributes
        if name in ("src", "href", "xlink:href", "srcset", "data", "action")
    ]
    assert links
    assert all(value.startswith(("data:image/png;base64,", "#")) for _, value in links)
    assert not re.search(r"url\((?!#)", text) and "@import" not in text
    assert not [tag for tag, *_ in tags.attributes if tag in ("script", "link", "iframe")]
    # The only addresses are the names of XML's vocabularies.
    assert set(re.findall(r"https?://[^\s\"'<>]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_the_page_is_well_formed_and_its_ids_are_unique(text):
    tags = Tags(text)
    assert not tags.open and not tags.unbalanced
    ids = [value for _, name, value in tags.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_everything_written_by_others_is_escaped(text):
    assert "<script" not in text and "<b>&mine" not in text
    assert "&lt;b&gt;&amp;mine" in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 6


def test_the_headline_is_computed_from_the_cells(text):
    text = " ".join(text.split())
    # source: clean 90, fog and noise 80 and 70; cta five points more.
    assert "<b>75.0 %</b>" in text and "<b>80.0 %</b>" in text and "+5.0 points" in text
    assert "90.0 % and 95.0 %" in text
    assert "+1.2 points (95 % interval −0.3 to +2.0, so it may be nothing)" in text


def test_the_best_of_each_column_is_bold(text):
    table = text.split("<tbody>")[1].split("</tbody>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("</tr>")[:3]]
    assert rows[2] == [f"<b>{x}</b>" for x in ("100.0", "85.0", "90.0", "80.0", "70.0")]
    assert not any("<b>" in text for row in rows[:2] for text in row)


def test_a_page_without_samples_gains_curves_or_our_methods_is_a_page(tmp_path):
    bare = [replace(cell, curve=()) for cell in cells() if cell.method == METHODS[2]]
    some = Gain("batch statistics alone", 0.012, 0.003, 0.02)
    text = page(tmp_path, cells=bare, samples=[], gains=[some], provenance={})
    assert "+0.3 to +2.0" in text and "may be nothing" not in text
    assert "Samples" not in text and "Charts" in text and "On clean images" not in text
    assert not Tags(text).unbalanced


def test_large_samples_keep_the_page_small(tmp_path):
    text = page(tmp_path, samples=[sample(size=256)] * 12)
    assert len(text.encode()) < 2_000_000


def test_figures_are_reproducible_and_take_the_pages_ink():
    first, again = (
        iterations_figure(cells(), METHODS, ("speckle_noise",))
        + accuracy_figure(summarise(cells(), METHODS, ("speckle_noise",)), METHODS)
        for _ in range(2)
    )
    assert first == again
    assert "currentColor" in first and "#000000" not in first and "#010203" not in first
    small = iterations_by_corruption(cells(), METHODS, ("speckle_noise",))
    assert list(small) == ["gaussian_noise", "fog"]
    assert iterations_figure([replace(cell, curve=()) for cell in cells()], METHODS, ()) == ""


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_picture_is_saved_on_white(tmp_path, kind):
    path = tmp_path / f"result.{kind}"
    result_picture(path, summarise(cells(), METHODS), METHODS, title="Fashion")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    if kind == "png":
        with Image.open(path) as picture:
            assert picture.convert("RGB").getpixel((2, picture.height - 3)) == (255, 255, 255)
    else:
        assert path.read_text().startswith("<?xml")
