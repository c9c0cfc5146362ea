"""What a dialog shows is what is done: nothing of another one is left in it, and nothing behind it changes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.page.paged import Paged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Locator, Page, Route

    from tests.e2e.page.browsing import Watched


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paged]:
    two = Paged(tmp_path_factory.mktemp("two"), "web", "chat", admin="allow_commands = true")
    with two.proxy:
        yield two


@pytest.fixture
def page(two: Paged, watched: Watched) -> Page:
    return two.open(watched)


def opened(page: Page, button: str, title: str = "") -> Locator:
    page.get_by_role("button", name=button, exact=True).click()
    dialog = page.get_by_role("dialog", name=title or button)
    dialog.wait_for()
    return dialog


def cancel(page: Page) -> None:
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").wait_for(state="hidden")


def test_to_close_everything_at_once_has_to_be_chosen_each_time(page: Page) -> None:
    opened(page, "Stop", "Stop the proxy").get_by_label("Do not wait").check()
    cancel(page)
    assert not opened(page, "Stop", "Stop the proxy").get_by_label("Do not wait").is_checked()
    cancel(page)


def test_what_was_filled_in_for_one_service_is_not_done_to_another(page: Page) -> None:
    dialog = opened(page, "Swap web")
    dialog.get_by_label("Version").select_option("v3")
    dialog.get_by_label("Time for open connections").fill("0")
    cancel(page)
    dialog = opened(page, "Swap chat")
    assert dialog.get_by_label("Version").input_value() == "v2"
    assert dialog.get_by_label("Time for open connections").input_value() == ""
    cancel(page)


@pytest.mark.parametrize("status", [200, 409])
def test_a_late_answer_does_not_put_another_dialog_under_the_pointer(page: Page, watched: Watched, status: int) -> None:
    late: list[Route] = []

    def hold(route: Route) -> None:
        late.append(route)

    page.route("**/v1/reload", hold)
    opened(page, "Reload", "Reload the config").get_by_role("button", name="Reload").click()
    page.wait_for_function("document.querySelector('#dialog form').getAttribute('aria-busy') === 'true'")
    cancel(page)
    dialog = opened(page, "Pause web")
    answer = (
        {"changes": [], "warnings": []}
        if status == 200
        else {"error": {"code": "x", "message": "Not now.", "hint": ""}}
    )
    late[0].fulfill(status=status, json=answer)
    page.get_by_role("status").get_by_text("Not now." if status == 409 else "Nothing has changed.").wait_for()
    assert dialog.get_by_role("button", name="Pause", exact=True).is_visible()
    cancel(page)
    watched.complaints[:] = [each for each in watched.complaints if "409" not in each]


def test_a_rollback_leads_where_its_button_says_or_nowhere(page: Page, two: Paged) -> None:
    two.proxy.operate("swap", version="v2")
    page.get_by_text("web swap v1 → v2").wait_for()
    dialog = opened(page, "Roll back web")
    two.proxy.operate("swap", version="v3")  # somebody else
    page.get_by_text("web swap v2 → v3").wait_for()
    dialog.get_by_role("button", name="Roll back to v1").click()
    dialog.get_by_role("alert").get_by_text("has changed meanwhile").wait_for()
    assert two.proxy.service()["active"] == "v3"
    cancel(page)
    opened(page, "Roll back web").get_by_role("button", name="Roll back to v2").click()
    page.get_by_text("web rollback v3 → v2").wait_for()
    two.proxy.operate("swap", version="v1")


def test_whoever_has_no_mouse_goes_on_where_they_were_after_a_refusal(page: Page, watched: Watched) -> None:
    dialog = opened(page, "Swap web")
    dialog.get_by_label("Time for open connections").fill("soon")
    button = dialog.get_by_role("button", name="Swap", exact=True)
    button.focus()
    page.keyboard.press("Enter")
    dialog.get_by_role("alert").wait_for()
    assert page.evaluate("document.activeElement.textContent") == "Swap"
    page.keyboard.press("Escape")
    watched.complaints[:] = [each for each in watched.complaints if "400" not in each]


def test_fields_that_come_and_go_keep_what_is_in_the_others(page: Page) -> None:
    dialog = opened(page, "Swap web")
    dialog.get_by_label("Time for open connections").fill("45s")
    dialog.get_by_label("Version").select_option("another one, by its command")
    assert dialog.get_by_label("Its name").input_value() == ""
    dialog.get_by_label("Its name").fill("v9")
    dialog.get_by_label("Version").select_option("v3")
    assert dialog.get_by_label("Time for open connections").input_value() == "45s"
    cancel(page)
