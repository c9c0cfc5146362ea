"""A proxy whose page tests look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e import configs
from tests.e2e.harness import Proxy, free_port

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.e2e.page.browsing import Watched


class Paged:
    """A proxy with `services`, each of three versions, and where its page is."""

    def __init__(self, folder: Path, *services: str, admin: str = "") -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/"
        config = "".join(configs.service(free_port(), name=name) for name in services)
        self.proxy = Proxy(folder, config, admin=f'listen = "127.0.0.1:{port}"\n{admin}')

    def open(self, watched: Watched) -> Page:
        """The page, once it is live."""
        page = watched.open(self.url)
        page.get_by_text("live", exact=True).wait_for()
        return page
