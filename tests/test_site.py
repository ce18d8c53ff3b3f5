"""The site builds without a warning, its links hold, and it quotes what the code says."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def hook():
    """The module that prepares the pages."""
    pytest.importorskip("mkdocs", reason="the site is made by mkdocs")
    spec = importlib.util.spec_from_file_location("site_hook", ROOT / "docs/build/site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    pytest.importorskip("material", reason="the site's theme is not installed")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(site):
    """Where any static host would have the site."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Page(HTMLParser):
    """What a page asks for, where it leads, and the places that can be led to."""

    def __init__(self, path):
        super().__init__()
        self.asks, self.leads, self.places = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.places |= {given.get("id"), given.get("name")} - {None}
        if tag == "a" and given.get("href"):
            self.leads.append(given["href"])
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload"):
            self.asks.append(given["href"])
        elif tag in ("script", "img", "iframe") and given.get("src"):
            self.asks.append(given["src"])


def test_pages_ask_no_other_server_and_links_lead_somewhere(site):
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 50
    for path, page in pages.items():
        assert not [url for url in page.asks if re.match(r"(https?:)?//", url)], path
        for url in page.leads + page.asks:
            if re.match(r"[a-z]+:", url):
                continue
            target, _, place = url.partition("#")
            found = (path.parent / target).resolve() if target else path
            found = found / "index.html" if found.is_dir() else found
            if path.name != "404.html":  # its links are absolute, for any depth
                assert found.exists(), f"{path.relative_to(site)}: {url}"
            if place and found.suffix == ".html" and found in pages:
                assert place in pages[found].places, f"{path.relative_to(site)}: {url}"


def test_what_the_theme_does_not_do_is_asked_for(site):
    start = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="site.css"' in start and "language-text" in (site / "site.css").read_text()
    assert "language-text" in (site / "methods/acclimate.html").read_text(encoding="utf-8")
    for page in site.rglob("*.html"):  # a picture for pages in light has one for pages in dark
        asked = [url for url in Page(page).asks if "-mode-only" in url]
        light = [url for url in asked if url.endswith(".png#gh-light-mode-only")]
        dark = [url.replace(".png", "-dark.png").replace("#gh-light", "#gh-dark") for url in light]
        assert sorted(asked) == sorted(light + dark), page


COVERED = """() => [...document.querySelectorAll(".md-code__nav")].filter(nav => {
  const button = nav.getBoundingClientRect();
  const code = nav.parentElement.querySelector("code").getBoundingClientRect();
  return button.width && button.left < code.right && button.top < code.bottom;
}).length"""
"""How many copy buttons lie on lines of code."""
SHOWN = """() => [...document.querySelectorAll("img[src*='-mode-only']")]
  .filter(picture => picture.getClientRects().length).map(picture => picture.src)"""


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1440, "dark")])
def test_pages_are_right_in_a_browser(address, width, scheme):
    chromium = pytest.importorskip("chromium")
    if chromium.PATH is None:
        pytest.skip("there is no Chromium to look with")
    with chromium.started() as browser:
        for name in ("index.html", "methods/acclimate.html", "reference/adapt.html"):
            with chromium.opened(browser, address + name, width, scheme) as (page, troubles, asked):
                buttons = "document.querySelectorAll('.md-code__nav').length"
                page.wait_for_function(buttons)
                assert page.evaluate(COVERED) == 0, name
                assert page.evaluate("document.documentElement.scrollWidth") == width, name
                shown = page.evaluate(SHOWN)
                assert shown == [url for url in shown if f"#gh-{scheme}-mode" in url], name
                assert bool(shown) == (name == "index.html")
                assert not troubles, name
                assert not [url for url in asked if not url.startswith((address, "data:"))], name


def test_no_mark_up_is_left_in_the_text(site):
    for page in site.rglob("*.html"):
        article = page.read_text(encoding="utf-8").partition("<article")[2]
        prose = re.sub(r"<pre.*?</pre>", "", article.partition("</article>")[0], flags=re.DOTALL)
        assert not re.findall(r"^(?:\d+\.|[-*|]) .*", prose, re.MULTILINE), page
        assert not re.findall(r":(?:func|class|mod|meth):", prose), page


def test_every_page_of_docs_is_in_the_site(site, hook):
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs")
        if name.parts[0] not in ("build", "pictures"):
            assert (site / name.with_suffix(".html")).exists(), name
    for made in hook.PAGES.values():
        assert (site / made).with_suffix(".html").exists()


def test_links_become_pages_or_the_path_of_a_file(hook):
    known = {"methods.md", "methods/cta.md", "index.md"}

    def on_page(text, source="docs/methods/cta.md", here="methods/cta.md"):
        return hook.rewritten(text, source, here, known).strip()

    assert on_page("[all](../methods.md#one)") == "[all](../methods.md#one)"
    assert on_page("[front](../../README.md)") == "[front](../index.md)"
    assert on_page("[rows](../../results/a.csv)") == "rows (`results/a.csv`)"
    assert on_page("[`a.csv`](../../results/a.csv)") == "`a.csv`"
    assert on_page("[out](https://x.org)") == "[out](https://x.org)"
    assert on_page("![a](../a.png#gh-dark-mode-only)") == "![a](../a.png#gh-dark-mode-only)"
    assert on_page("```\n[x](y)\n```") == "```\n[x](y)\n```"
    assert on_page("[cta](docs/methods/cta.md)", "README.md", "index.md") == "[cta](methods/cta.md)"


def test_what_belongs_to_an_item_is_indented_by_four(hook):
    text = "1. one\n\n   more\n\n   ```\n     x\n   ```\n- two\n  on\n\n   out\n\nend\n  as is\n"
    wanted = (
        "1. one\n\n    more\n\n    ```\n      x\n    ```\n\n"
        "- two\n    on\n\n     out\n\nend\n  as is\n"
    )
    assert hook.indented(text) == wanted
    text = "1. one\n\n   more\n   on\n2. two\n3. three\n"  # 2. would be the end of "more"
    assert hook.indented(text) == "1. one\n\n    more\n    on\n\n2. two\n3. three\n"


def test_a_figure_in_a_table_stays_with_its_interval(hook):
    text = "1.5 [1.2, 1.8]\n| a | +1.5 [-1.2, +1.8] | 2.1 ± 0.3 | 3 [x] |\n"
    wanted = "1.5 [1.2, 1.8]\n| a | +1.5_[-1.2,_+1.8] | 2.1_±_0.3 | 3 [x] |\n"
    assert hook.unbroken(text) == wanted.replace("_", "\N{NO-BREAK SPACE}")


def templates() -> str:
    """All messages of errors in the code, with … for what is filled in."""

    def text(node):
        if isinstance(node, ast.Constant):
            return str(node.value)
        return "".join(map(text, node.values)) if isinstance(node, ast.JoinedStr) else "…"

    found = []
    for path in (ROOT / "acclimate").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant | ast.JoinedStr):
                found.append(text(node))
    return "\n".join(found)


def test_messages_are_quoted_as_the_code_says_them():
    page = (ROOT / "docs/what-goes-wrong.md").read_text(encoding="utf-8")
    quoted = [
        " ".join(block.replace("\n> ", " ").removeprefix("> ").split())
        for block in re.findall(r"^> (?:.|\n> )*", page, flags=re.MULTILINE)
    ]
    assert len(quoted) > 10
    code = templates()
    for message in quoted:
        for part in message.split("…"):
            assert part in code, message
