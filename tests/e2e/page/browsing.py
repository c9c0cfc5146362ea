"""A real browser (Debian's Chromium, driven by playwright) in front of a real proxy's page."""

from __future__ import annotations

import contextlib
import os
import shutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.tools import missing, need

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

PATIENCE = 30_000  # milliseconds
DESKTOP = {"width": 1200, "height": 800}
PHONE = {"width": 390, "height": 844}

# Without the last ones it asks its maker's hosts for updates.
_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_ROOT = Path(__file__).parents[3]


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Start it, or skip the test and say what is missing."""
    program = need("chromium", package="chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed: pip install -e '.[page]'")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=_OPTIONS)
        try:
            yield started
        finally:
            started.close()


class Watched:
    """Opens pages, and remembers what a person would have seen in the console."""

    def __init__(self, started: Browser) -> None:
        self.complaints: list[str] = []
        self._browser = started
        self._contexts: list[Any] = []

    def open(self, url: str, *, viewport: dict[str, int] = DESKTOP, **options: Any) -> Page:
        context = self._browser.new_context(viewport=viewport, **options)
        context.set_default_timeout(PATIENCE)
        self._contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        page.goto(url)
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()


def save(page: Page, name: str, *, full: bool = True) -> Path:
    """A picture of the page in build/pictures, and with SAVE_PICTURES=1 in docs, where the README shows it."""
    folder = _ROOT / "build" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    page.screenshot(path=path, full_page=full)
    if os.environ.get("SAVE_PICTURES") == "1":
        shutil.copy(path, _ROOT / "docs" / path.name)
    return path


@cache
def _axe() -> str:
    """axe-core's program: $AXE_CORE, or where `npm install axe-core` in the checkout puts it."""
    path = Path(os.environ.get("AXE_CORE") or _ROOT / "node_modules/axe-core/axe.min.js")
    if not path.exists():
        missing(f"axe-core is not installed ({path}): npm install --no-save axe-core")
    return path.read_text()


def violations(page: Page) -> list[str]:
    """What axe-core has to say against the page as it looks now, a line each."""
    page.evaluate(_axe())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']}: {each['help']}: {node['html'][:200]} {node.get('failureSummary', '')}"
        for each in found["violations"]
        for node in each["nodes"]
    ]
