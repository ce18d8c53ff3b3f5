"""A real browser to look at pages with. Tests that need it are skipped where there is none."""

import shutil
from contextlib import contextmanager

import pytest

PATH = shutil.which("chromium") or shutil.which("chromium-browser")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
in_browser = pytest.mark.skipif(PATH is None, reason="there is no Chromium to look with")


@contextmanager
def started():
    """The browser, until the end of the block."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=PATH, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@contextmanager
def opened(browser, address, width=1440, scheme="light", until="true"):
    """A page, once a script says that it is drawn; what it complained of and what it asked for."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(60_000)
    troubles, asked = [], []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    try:
        page.wait_for_function(until)
        yield page, troubles, asked
    finally:
        page.close()
