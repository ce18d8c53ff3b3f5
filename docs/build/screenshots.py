"""Pictures of a report's page, on a desk and on a phone.

    python docs/build/screenshots.py runs/main --out docs/pictures

Needs the developers' extra and a Chromium, whose path is taken from ``--chromium``.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from playwright.sync_api import sync_playwright

WIDTHS = (390, 1440)


@dataclass(frozen=True)
class Arguments:
    """What to take pictures of."""

    folder: Path
    """Folder with report.html, from acclimate report or acclimate quickstart."""
    out: Path = Path(__file__).parents[1] / "pictures"
    """Where the pictures go."""
    scheme: Literal["light", "dark"] = "light"
    """The page's colours."""
    height: int | None = 2000
    """Height of the pictures, in pixels; None is the whole page."""
    chromium: str = shutil.which("chromium") or "chromium"
    """The browser."""


def main(arguments: Arguments) -> None:
    """Take a picture at each width."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    address = (arguments.folder / "report.html").resolve().as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=arguments.chromium, args=["--no-sandbox"]
        )
        for width in WIDTHS:
            page = browser.new_page(
                viewport={"width": width, "height": arguments.height or 900},
                color_scheme=arguments.scheme,
            )
            page.goto(address)
            page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length > 0")
            dark = "" if arguments.scheme == "light" else "-dark"
            path = arguments.out / f"report-{width}{dark}.png"
            page.screenshot(path=path, full_page=arguments.height is None)
            print(path)
        browser.close()


if __name__ == "__main__":
    main(tyro.cli(Arguments))
