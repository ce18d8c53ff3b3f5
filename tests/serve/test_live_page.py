"""The live page in a real browser: numbers move, buttons work, nothing is asked of others.

Skipped where there is no Chromium: ``apt install chromium``.
"""

import re
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from chromium import in_browser, opened, started, sync_api
from serving import SETTINGS, served_here

TOKEN = "0123456789abcdef0123456789abcdef"
NAMES = ("north", '<b>süd & "x" ' + "long " * 11 + "name", "東")
OVERFLOW = """width => [...document.querySelectorAll('body *')].filter(node => {
  const box = node.getBoundingClientRect();
  return box.width && (box.left < -1 || box.right > width + 1);
}).map(node => node.outerHTML.slice(0, 200))"""


@pytest.fixture(scope="module")
def service(served):
    with served_here(served, SETTINGS) as (address, service):
        yield address, service


@pytest.fixture(scope="module")
def browser():
    with started() as browser:
        yield browser


@pytest.fixture
def feed(npy):
    """Sends images to a stream."""
    draw = np.random.default_rng(0)

    def feed(address, stream, count=8, batches=1, **headers):
        for _ in range(batches):
            body = npy(draw.integers(0, 256, (count, 3, 16, 16), np.uint8))
            answer = httpx.post(
                f"{address}/v1/streams/{quote(stream, safe='')}/predict",
                content=body,
                headers={"content-type": "application/x-npy"} | headers,
                timeout=60,
            )
            assert answer.status_code == 200, answer.text

    return feed


def card(page, name):
    return page.locator("article").filter(has=page.get_by_role("heading", name=name, exact=True))


def figure(page, name, label):
    row = card(page, name).locator(".figures > div").filter(has=page.get_by_text(label, exact=True))
    return row.locator("dd")


@in_browser
def test_numbers_move_and_no_other_server_is_asked(browser, service, feed):
    address, _ = service
    with opened(browser, address) as (page, troubles, asked):
        feed(address, "north")
        sync_api.expect(figure(page, "north", "images")).to_have_text("8")
        feed(address, "north", batches=3)
        sync_api.expect(figure(page, "north", "images")).to_have_text("32")
        assert re.fullmatch(r"\d+ %", figure(page, "north", "agreement").text_content())
        assert re.fullmatch(r"[\d.,]+ ms", figure(page, "north", "latency").text_content())
        assert card(page, "north").locator(".estimates svg").count() == 3  # given, adapted, frozen
        assert card(page, "north").locator("svg rect.cell").count() == 4  # a verdict for each batch
        lines = "lines => lines.map(line => line.points.numberOfItems)"
        counts = card(page, "north").locator("polyline").evaluate_all(lines)
        assert counts == [4, 4, 4]  # frozen, adapted, latency
        total = page.locator("#totals > div").filter(has_text="images").locator("dd")
        assert total.text_content() == "32"
        assert not troubles
        assert {httpx.URL(url).copy_with(raw_path=b"/") for url in asked} == {
            httpx.URL(address + "/")
        }


@in_browser
def test_buttons_change_the_mode_and_reset(browser, service, feed):
    address, served = service
    feed(address, "east", batches=2)
    with opened(browser, address) as (page, troubles, _):
        shadow = card(page, "east").get_by_role("button", name="shadow")
        sync_api.expect(card(page, "east").get_by_role("button", name="bounded")).to_have_attribute(
            "aria-pressed", "true"
        )
        shadow.click()
        sync_api.expect(shadow).to_have_attribute("aria-pressed", "true")
        assert served.engine.known("east").mode == "shadow"
        reset = card(page, "east").locator(".reset")
        reset.click()
        assert reset.text_content() == "Forget what it learned?"
        assert served.engine.known("east").images == 16  # one click alone changes nothing
        reset.click()
        sync_api.expect(figure(page, "east", "images")).to_have_text("0")
        assert served.engine.known("east").mode == "shadow"
        assert not troubles


@in_browser
def test_what_the_service_refuses_is_told(browser, service, feed):
    address, _ = service
    feed(address, "gone")
    with opened(browser, address) as (page, *_):
        mode = card(page, "gone").get_by_role("button", name="off")
        sync_api.expect(mode).to_be_visible()
        page.route("**/mode", lambda route: route.fulfill(
            status=503, json={"type": "overloaded", "sentence": "too much waits."}
        ))  # fmt: skip
        mode.click()
        sync_api.expect(page.locator("#trouble")).to_have_text("too much waits.")


@in_browser
@pytest.mark.parametrize(
    "width, scheme", [(390, "dark"), (390, "light"), (1440, "dark"), (1440, "light")]
)
def test_nothing_overflows_on_a_phone_or_a_desk(browser, service, feed, width, scheme):
    address, _ = service
    for name in NAMES:
        feed(address, name, batches=2)
    with opened(browser, address, width, scheme) as (page, troubles, _):
        for name in NAMES:
            sync_api.expect(card(page, name)).to_be_visible()  # as text, not as markup
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(OVERFLOW, width) == []
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (min(map(int, re.findall(r"\d+", paper))) > 128) == (scheme == "light")
        assert not troubles


@in_browser
def test_a_token_is_asked_for_where_one_is_needed(browser, served, feed, tmp_path):
    (tmp_path / "tokens").write_text(f"{TOKEN}\n")
    with served_here(served, SETTINGS, tmp_path / "tokens") as (address, _):
        feed(address, "north", authorization=f"Bearer {TOKEN}")
        with opened(browser, address) as (page, *_):
            field = page.get_by_label("This service needs a token.")
            field.fill("a wrong one, of some length")
            page.get_by_role("button", name="Use it").click()
            sync_api.expect(page.get_by_text("this token is not known")).to_be_visible()
            field.fill(TOKEN)
            page.get_by_role("button", name="Use it").click()
            sync_api.expect(figure(page, "north", "images")).to_have_text("8")
            sync_api.expect(field).to_be_hidden()
            page.reload()
            sync_api.expect(figure(page, "north", "images")).to_have_text("8")


@in_browser
def test_without_a_guard_it_says_so_and_shows_the_rest(browser, unguarded, feed):
    with (
        served_here(unguarded, SETTINGS) as (address, _),
        opened(browser, address) as (page, troubles, _),
    ):
        sync_api.expect(page.locator("#empty")).to_be_visible()
        feed(address, "north", batches=2)
        sync_api.expect(figure(page, "north", "images")).to_have_text("16")
        sync_api.expect(page.locator("#guard")).to_contain_text("no guard, all answers are")
        assert card(page, "north").locator(".modes button").all_text_contents() == ["off", "shadow"]
        assert card(page, "north").locator(".estimates svg").count() == 0
        assert not troubles


def test_its_files_name_no_other_server_and_nothing_else_is_served(service):
    address, _ = service
    page = httpx.get(address)
    assert (
        page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
    )
    parts = re.findall(r'(?:href|src)="(page/[^"]+)"', page.text)
    parts += [f"page/{name}" for name in ("draw.js",)]
    assert len(parts) == 4
    for text in [page.text, *(httpx.get(f"{address}/{part}").text for part in parts)]:
        assert set(re.findall(r"https?://[^\s\"')]+", text)) <= {"http://www.w3.org/2000/svg"}
    for name in ("nothing.js", "..%2Fapp.py", "%2e%2e/app.py", "index.html/"):
        assert httpx.get(f"{address}/page/{name}").status_code in (404, 307)
