"""What has not changed on the page is not touched: the focus stays where somebody put it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.page.paged import Paged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

    from tests.e2e.page.browsing import Watched


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paged]:
    one = Paged(tmp_path_factory.mktemp("one"), "web")
    with one.proxy:
        yield one


@pytest.fixture
def page(one: Paged, watched: Watched) -> Page:
    return one.open(watched)


def test_who_has_no_mouse_keeps_their_place_while_a_swap_fails(page: Page, one: Paged) -> None:
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
