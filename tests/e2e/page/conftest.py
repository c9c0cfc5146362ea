from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.page.browsing import Watched, browser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture
def watched(chromium: Browser) -> Iterator[Watched]:
    """Pages that are closed in the end; nothing may have gone wrong in them that nobody saw."""
    watched = Watched(chromium)
    yield watched
    watched.close()
    assert watched.complaints == []
