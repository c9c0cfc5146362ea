"""What has not changed on the page is not touched: the focus stays where somebody put it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e import configs
from tests.e2e.harness import Proxy, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.e2e.page.browsing import Watched


class One:
    def __init__(self, folder: Path) -> None:
        admin = free_port()
        self.url = f"http://127.0.0.1:{admin}/"
        self.proxy = Proxy(folder, configs.service(free_port()), admin=f'listen = "127.0.0.1:{admin}"')


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[One]:
    one = One(tmp_path_factory.mktemp("one"))
    with one.proxy:
        yield one


@pytest.fixture
def page(one: One, watched: Watched) -> Page:
    page = watched.open(one.url)
    page.get_by_text("live", exact=True).wait_for()
    return page


def test_who_has_no_mouse_keeps_their_place_while_a_swap_fails(page: Page, one: One) -> None:
    number = one.proxy.active()["id"]
    logs = page.get_by_role("button", name=f"Logs of web generation {number}")
    logs.focus()
    result = one.proxy.begin("swap", version="none", command=["false"], wait=True)
    assert result["result"] == "failed"
    page.locator(".failure").get_by_text("exited with status 1").first.wait_for()
    page.get_by_role("button", name=f"Logs of web generation {number + 1}").wait_for(state="hidden")
    assert logs.evaluate("each => each === document.activeElement")


def test_a_banner_that_goes_takes_nothing_with_it(page: Page) -> None:
    kept = page.evaluate(
        """async () => {
            const { h, patch } = await import("/page/dom.js");
            const root = document.createElement("div");
            document.body.append(root);
            const main = () => h("main", { key: "main" }, h("input", {}));
            patch(root, [h("p", { key: "banner" }, "lost"), main(), h("p", { role: "status" }, "")]);
            const before = [...root.childNodes].slice(1);
            root.querySelector("input").focus();
            patch(root, [main(), h("p", { role: "status" }, "")]);
            const hasFocus = document.activeElement === root.querySelector("input");
            const isSame = before.every((node, i) => node === root.childNodes[i]);
            root.remove();
            return [hasFocus, isSame];
        }"""
    )
    assert kept == [True, True]
