"""The page in a real browser: nothing is asked of the network, everything works, nothing overlaps.

Skipped where there is no Chromium: ``apt install chromium``.
"""

from functools import partial

import chromium
import numpy as np
import pytest

from acclimate.evaluate.variant import Variant
from acclimate.methods.changes import settings_record
from acclimate.report.analyses import Analysis
from acclimate.report.gains import Gain
from acclimate.report.page import Report, write_page
from acclimate.report.published import Published

pytestmark = chromium.in_browser
opened = partial(
    chromium.opened,
    until="[...document.querySelectorAll('.plot')].every("
    "p => p.closest('details:not([open])') || p.querySelector('.main-svg'))",
)
METHODS = ("source", "ptbn", "tent", "tipi", "ttt-online", "uda-ss", "clust3", "cta-paper")
CORRUPTIONS = ("none", "gaussian_noise", "shot_noise", "jpeg_compression", "elastic_transform")

TEXTS = """() => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.data.trim() || parent.closest("script, style, .modebar, .hoverlayer")) continue;
    if (parent.closest("details:not([open])") && !parent.closest("summary")) continue;
    const style = getComputedStyle(parent);
    if (style.visibility === "hidden" || style.opacity === "0") continue;
    const wide = parent.closest(".wide")?.getBoundingClientRect();
    const pinned = wide && !parent.closest("th:first-child") ? wide : null;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) {
      if (pinned && box.right > pinned.right) continue; // out of the scroller's sight
      if (box.width > 1) found.push([node.data.trim(), box.left, box.top, box.right, box.bottom]);
    }
  }
  return found;
}"""


@pytest.fixture(scope="module")
def address(measured, tmp_path_factory):
    """A page with everything in it, of made-up answers."""
    generator = np.random.default_rng(0)

    def made(method, corruption, bundle="supervised", **more):
        skill = 0.5 + 0.04 * METHODS.index(method) - 0.03 * CORRUPTIONS.index(corruption)
        steps = Variant.parse(method).settings.steps
        curve = tuple(skill + 0.001 * step for step in range(steps + 1)) if steps else ()
        return measured(
            method, corruption, generator.random(120) < skill, bundle=bundle, curve=curve,
            confidences=generator.uniform(0.1, 1, 120), cost=1.0 + 2.5 * steps, **more
        )  # fmt: skip

    cells = [made(m, c, seed=s) for m in METHODS for c in CORRUPTIONS for s in (0, 1)]
    cells += [made("source", c, "a-second-bundle") for c in CORRUPTIONS]
    cells += [made("tent", c, batch=16) for c in CORRUPTIONS]
    cells += [made("tent", c, order="label-shifted") for c in CORRUPTIONS]
    cells += [made("tent", "gaussian_noise", order="growing-noise")]
    published = [Published("tent", c, 5, 0.6, None) for c in CORRUPTIONS[1:]]
    command = "acclimate bench BUNDLES/supervised --corruptions " + " ".join(CORRUPTIONS)
    report = Report(
        title="Test-time training on a data set with a long name",
        measured=cells,
        settings={name: settings_record(Variant.parse(name).settings) for name in METHODS},
        provenance={"commands": [command], "weights": "0123456789abcdef" * 4},
        published=published,
        analyses=[Analysis("t", "Temperature", "What it does.", ("τ", "accuracy"), (("1", "2"),))],
        parts=[("batch statistics alone", Gain(0.1, 0.05, 0.15))],
    )
    path = tmp_path_factory.mktemp("browser") / "report.html"
    write_page(path, report)
    return path.as_uri()


@pytest.fixture(scope="module")
def browser():
    with chromium.started() as browser:
        yield browser


def names(page):
    return page.eval_on_selector_all(
        "#table-1 tbody th",
        "rows => rows.filter(r => r.checkVisibility()).map(r => r.dataset.value)",
    )


def overlapping(texts):
    """Pairs of texts whose boxes share more than a hair."""
    boxes = np.array([box for _, *box in texts])
    left, top, right, bottom = boxes.T
    across = np.minimum.outer(right, right) - np.maximum.outer(left, left)
    down = np.minimum.outer(bottom, bottom) - np.maximum.outer(top, top)
    first, second = np.nonzero(np.triu((across > 2) & (down > 4), 1))
    return [(texts[i][0], texts[j][0]) for i, j in zip(first, second)]


@pytest.mark.parametrize(
    "width, scheme",
    [
        (390, "light"),
        (1440, "dark"),
        pytest.param(390, "dark", marks=pytest.mark.slow),
        pytest.param(1440, "light", marks=pytest.mark.slow),
    ],
)
def test_nothing_overlaps_or_overflows_or_complains(browser, address, width, scheme):
    with opened(browser, address, width, scheme) as (page, troubles, asked):
        page.eval_on_selector_all("details", "all => all.forEach(d => d.open = true)")
        page.wait_for_function(
            "[...document.querySelectorAll('.plot')].every(p => p.querySelector('.main-svg'))"
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        texts = page.evaluate(TEXTS)
        assert len(texts) > 300
        assert not overlapping(texts)
        outside = [text for text, left, _, right, _ in texts if left < 0 or right > width]
        assert not outside
        assert not troubles
        assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [address]


def test_the_check_for_overlaps_can_fail(browser, address):
    with opened(browser, address) as (page, *_):
        page.eval_on_selector("h2", "h => Object.assign(h.style, {position: 'absolute', top: 0})")
        assert overlapping(page.evaluate(TEXTS))


def test_every_figure_has_marks_in_the_pages_ink(browser, address):
    with opened(browser, address, scheme="dark") as (page, *_):
        plots = page.locator(".plot >> visible=true")
        assert plots.count() >= 11  # five, a small one a corruption, three across protocols
        drawn = page.eval_on_selector_all(
            ".plot",
            "all => all.filter(p => p.offsetWidth)"
            ".map(p => p.querySelectorAll('.main-svg .points path').length)",
        )
        assert all(count > 0 for count in drawn)
        ink = page.eval_on_selector(".plot .xtick text", "t => getComputedStyle(t).fill")
        red, green, blue = (int(part) for part in ink[4:-1].split(","))
        assert min(red, green, blue) > 128


def test_sorting_and_filtering_change_the_rows(browser, address):
    with opened(browser, address) as (page, troubles, _):
        before = names(page)
        assert len(before) == len(METHODS)
        button = page.locator("#table-1 th button", has_text="mean").first
        button.click()

        def values():
            rows = "rows => rows.map(r => r.querySelector('td.mean').dataset.value)"
            found = page.eval_on_selector_all("#table-1 tbody tr", rows)
            return [float(value) for value in found]

        assert values() == sorted(values(), reverse=True)
        assert names(page) != before and sorted(names(page)) == sorted(before)
        button.click()
        assert values() == sorted(values())
        # What is missing stays below, whichever way the others go.
        page.locator("#table-1 th button", has_text="published").click()
        assert names(page)[0] == "tent"
        page.locator("#table-1 th button", has_text="published").click()
        assert names(page)[0] == "tent"
        page.locator("#table-1 th button", has_text="method").click()
        page.locator("#table-1 th button", has_text="method").click()
        assert names(page) == sorted(before)
        page.fill("input[data-filter=table-1]", "TENT uda")
        assert names(page) == ["tent", "uda-ss"]
        page.fill("input[data-filter=table-1]", "")
        assert sorted(names(page)) == sorted(before)
        assert not troubles


def test_baselines_of_further_bundles_are_folded_away(browser, address):
    with opened(browser, address) as (page, *_):
        before = names(page)
        assert "source · supervised" in before
        box = page.get_by_label("source of every bundle").first
        box.check()
        assert set(names(page)) - set(before) == {"source · a-second-bundle"}
        box.uncheck()
        assert names(page) == before
        page.fill("input[data-filter=table-1]", "second")
        assert names(page) == ["source · a-second-bundle"]


def test_the_table_can_be_downloaded_and_a_figure_saved(browser, address, tmp_path):
    with opened(browser, address) as (page, troubles, _):
        with page.expect_download() as download:
            page.get_by_role("link", name="CSV").first.click()
        assert download.value.suggested_filename == "table-1.csv"
        download.value.save_as(tmp_path / "t.csv")
        assert (tmp_path / "t.csv").read_text().startswith("bundle,method,")
        page.locator(".plot").first.hover()
        with page.expect_download() as download:
            page.locator(".plot .modebar-btn[data-title*=Download]").first.click()
        assert download.value.suggested_filename == "accuracy.png"
        download.value.save_as(tmp_path / "a.png")
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
        assert not troubles
