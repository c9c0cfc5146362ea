"""Signing in, with a browser: who may act, who may look on, and what becomes of them when the tokens change."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.e2e import configs
from tests.e2e.harness import Proxy, free_port
from tests.e2e.page.browsing import PHONE, save, violations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.e2e.page.browsing import Watched

ACT, READ = "act-" + "a" * 28, "read-" + "r" * 27


class Guarded:
    def __init__(self, folder: Path) -> None:
        admin = free_port()
        self.url = f"http://127.0.0.1:{admin}/"
        self.tokens = folder / "tokens"
        self.write(ACT, READ)
        self.proxy = Proxy(
            folder,
            configs.service(free_port()),
            admin=f'listen = "0.0.0.0:{admin}"\ntoken_file = "tokens"\nallow_commands = true',
        )

    def write(self, *tokens: str) -> None:
        aside = self.tokens.with_name("aside")
        aside.touch(mode=0o600)
        aside.write_text("\n".join(tokens))
        aside.replace(self.tokens)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    guarded = Guarded(tmp_path_factory.mktemp("guarded"))
    with guarded.proxy:
        yield guarded


def sign_in(page: Page, token: str) -> None:
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()


def test_a_right_token_leads_to_the_page_and_a_wrong_one_says_so(guarded: Guarded, watched: Watched) -> None:
    page = watched.open(guarded.url)
    assert page.url == f"{guarded.url}login"
    assert violations(page) == []
    sign_in(page, "wrong")
    page.get_by_role("alert").get_by_text("The token is not right.").wait_for()
    assert violations(page) == []
    sign_in(page, ACT)
    page.get_by_role("article", name="web").wait_for()
    assert page.url == guarded.url
    assert page.evaluate("document.cookie") == ""  # no script can read it
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(f"{guarded.url}login")
    page.goto(guarded.url)
    assert page.url == f"{guarded.url}login"
    watched.complaints[:] = [each for each in watched.complaints if "401" not in each]


def test_who_may_act_brings_a_version_by_its_command(guarded: Guarded, watched: Watched) -> None:
    page = watched.open(guarded.url)
    sign_in(page, ACT)
    page.get_by_role("button", name="Swap web").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Version").select_option("another one, by its command")
    dialog.get_by_label("Its name", exact=True).fill("new")
    dialog.get_by_label("Its command", exact=True).fill("python3 -m http.server --bind 127.0.0.1 {port}")
    assert violations(page) == []
    dialog.get_by_role("button", name="Swap", exact=True).click()
    page.get_by_role("article", name="web").locator("header .version", has_text=re.compile("^new$")).wait_for()
    (action,) = guarded.proxy.ask("GET", "/v1/history")[1]["actions"]
    assert action["command"] == "python3 -m http.server --bind 127.0.0.1 '{port}'"
    assert (action["by"]["via"], action["by"]["as"]) == ("tcp", "page")


def test_who_may_only_look_on_sees_everything_and_can_press_nothing(guarded: Guarded, watched: Watched) -> None:
    page = watched.open(guarded.url, viewport=PHONE)
    sign_in(page, READ)
    page.get_by_text("Signed in to look on").wait_for()
    page.get_by_role("article", name="web").wait_for()
    for name in ("Swap web", "Restart web", "Pause web", "Reload", "Stop"):
        assert page.get_by_role("button", name=name, exact=True).is_disabled()
    assert page.get_by_role("button", name=re.compile("Logs of web")).first.is_enabled()
    assert violations(page) == []
    save(page, "page-look-on")


def test_new_tokens_sign_everybody_out(guarded: Guarded, watched: Watched) -> None:
    page = watched.open(guarded.url)
    sign_in(page, ACT)
    page.get_by_role("button", name="Restart web").click()
    guarded.write(ACT + "x")
    page.get_by_role("dialog").get_by_role("button", name=re.compile("^Restart")).click()
    page.wait_for_url(f"{guarded.url}login")
    guarded.write(ACT, READ)
    assert [each["action"] for each in guarded.proxy.ask("GET", "/v1/history")[1]["actions"]].count("restart") == 0
    watched.complaints[:] = [each for each in watched.complaints if "401" not in each]


def test_a_page_elsewhere_can_do_nothing_with_the_browser_of_who_is_signed_in(
    guarded: Guarded, watched: Watched, tmp_path: Path
) -> None:
    """With the real thing: a form and a script on another origin, in a browser that has the cookie."""
    page = watched.open(guarded.url)
    sign_in(page, ACT)
    page.get_by_role("article", name="web").wait_for()
    before = guarded.proxy.ask("GET", "/v1/history")[1]
    elsewhere = guarded.url.replace("127.0.0.1", "localhost")  # another site, by the rules of cookies and origins
    target = f"{guarded.url}v1/services/web/restart"
    page.route(
        f"{elsewhere}evil",
        lambda route: route.fulfill(
            content_type="text/html",
            body=f"<form method=post action='{target}' enctype=text/plain><button>win</button></form>",
        ),
    )
    page.goto(f"{elsewhere}evil")
    outcome = page.evaluate(
        """async (target) => {
            const ways = [
                {mode: "no-cors", body: "{}"},
                {mode: "cors", body: "{}", headers: {"Content-Type": "application/json"}},
                {mode: "cors", credentials: "include", body: "{}", headers: {"Content-Type": "application/json"}},
                {mode: "no-cors", credentials: "include", body: new URLSearchParams({now: "true"})},
            ];
            const told = [];
            for (const way of ways) {
                try { told.push((await fetch(target, {method: "POST", ...way})).type); }
                catch { told.push("refused"); }
            }
            return told;
        }""",
        target,
    )
    # "opaque": it was sent, and nobody may see what came of it. Newer browsers refuse to send it to loopback at all.
    assert outcome[1:3] == ["refused", "refused"]
    assert set(outcome) <= {"opaque", "refused"}
    page.get_by_role("button", name="win").click()
    page.get_by_text("forbidden").or_(page.get_by_text("unauthorized")).wait_for()
    assert guarded.proxy.ask("GET", "/v1/history")[1] == before
    watched.complaints.clear()
