"""Pictures of a report's page, or of the service's, on a desk and on a phone.

    python docs/build/screenshots.py --folder runs/main
    python docs/build/screenshots.py --service http://127.0.0.1:8000 --height 1000

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

    folder: Path | None = None
    """Folder with report.html, from acclimate report or acclimate quickstart."""
    service: str | None = None
    """Address of a running acclimate serve, in place of a folder."""
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
    if (arguments.folder is None) == (arguments.service is None):
        raise SystemExit("give --folder or --service.")
    name, ready, address = "serve", "article svg", arguments.service
    if arguments.folder:
        name, ready = "report", ".js-plotly-plot"
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
            page.goto(str(address))
            page.wait_for_selector(ready)
            dark = "" if arguments.scheme == "light" else "-dark"
            path = arguments.out / f"{name}-{width}{dark}.png"
            page.screenshot(path=path, full_page=arguments.height is None)
            print(path)
        browser.close()


if __name__ == "__main__":
    main(tyro.cli(Arguments))
