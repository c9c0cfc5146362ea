"""The page as people use it: in Chromium, on a real proxy under load, without ever loading it again."""

from __future__ import annotations

import contextlib
import re
import sys
from typing import TYPE_CHECKING

import pytest

from tests.e2e import configs
from tests.e2e.harness import Held, Load, Proxy, eventually, free_port, held, kill
from tests.e2e.page.browsing import PHONE, save, violations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Locator, Page

    from tests.e2e.page.browsing import Watched

_TALKS = "import http.server, sys\nprint('listening', flush=True)\n"
_TALKS += "http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler)"
_TALKS += ".serve_forever()"
_DIES = "echo one moment; echo \"KeyError: 'DATABASE_URL'\" >&2; exit 3"


class Story:
    """A proxy with two services: `web`, that requests go to, and `chat`, whose clients stay."""

    def __init__(self, folder: Path, *, keys: str = "") -> None:
        self.web, self.chat, admin = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{admin}/"
        config = configs.service(
            self.web,
            keys='protocol = "http"',
            v1=configs.backend(replicas=2),
            v2=configs.backend(replicas=2),
            broken=configs.command("sh", "-c", _DIES),
            talks=configs.command(sys.executable, "-c", _TALKS, "{port}"),
        ) + configs.service(self.chat, name="chat", drain='deadline = "60s"')
        self.proxy = Proxy(folder, config, admin=f'listen = "127.0.0.1:{admin}"\n{keys}')


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    story = Story(tmp_path_factory.mktemp("page"))
    with story.proxy:
        yield story


@contextlib.contextmanager
def never_reloaded(page: Page) -> Iterator[None]:
    page.evaluate("window.sameAsEver = true")
    yield
    assert page.evaluate("window.sameAsEver") is True


def card(page: Page, name: str) -> Locator:
    return page.get_by_role("article", name=name)


def press(page: Page, button: str, confirm: str | None = None, **fields: str) -> None:
    """Press a button, fill in what it asks, and confirm it."""
    page.get_by_role("button", name=button, exact=True).click()
    dialog = page.get_by_role("dialog")
    for label, value in fields.items():
        field = dialog.get_by_label(label.replace("_", " "))
        if field.evaluate("each => each.localName") == "select":
            field.select_option(value)
        else:
            field.fill(value)
    dialog.get_by_role("button", name=confirm or button.split(maxsplit=1)[0], exact=True).click()
    dialog.wait_for(state="hidden")


def wait_for_active(page: Page, name: str, version: str) -> None:
    card(page, name).locator("header .version", has_text=re.compile(f"^{re.escape(version)}$")).wait_for()


def test_a_swap_by_button_is_seen_through_to_its_end(story: Story, watched: Watched) -> None:
    page = watched.open(story.url)
    with Load(story.web, clients=4), held(story.chat, 5) as clients, never_reloaded(page):
        chat = card(page, "chat")
        chat.get_by_text("5 connections").wait_for()
        entries = page.locator(".entry").count()
        page.get_by_role("button", name="Swap chat").click()
        dialog = page.get_by_role("dialog", name="Swap chat")
        assert "Open connections (5 now) stay with v1 and may finish within 1m" in dialog.inner_text()
        assert "If it does not get healthy, nothing changes" in dialog.inner_text()
        dialog.get_by_label("Version").select_option("v2")
        dialog.get_by_role("button", name="Swap", exact=True).click()
        wait_for_active(page, "chat", "v2")
        bar = chat.get_by_role("progressbar", name="v1 drains")
        bar.wait_for()
        assert chat.locator(".steps .done .name").all_inner_texts() == ["start", "health", "switch"]
        assert chat.locator(".steps .runs .name").inner_text() == "drain"
        left = chat.locator(".drain", has_text="5 of 5 connections left")
        left.wait_for()
        first = _seconds(left.inner_text())
        eventually(lambda: _seconds(left.inner_text()) < first, what="the deadline comes nearer")
        assert bar.get_attribute("aria-valuenow") == "0"
        for closed, share in ((2, "40"), (4, "80")):
            for client in clients[:closed]:
                client.close()
            eventually(lambda wanted=share: bar.get_attribute("aria-valuenow") == wanted, what=f"{share} %")
        save(page, "page-drain")
        clients[4].close()
        page.locator(".entry", has_text="chat swap v1 → v2").get_by_text("5 connections finished").wait_for()
        assert page.locator(".entry").count() == entries + 1
        bar.wait_for(state="hidden")
        assert chat.locator(".generation").count() == 1
        assert chat.locator(".legend span").all_inner_texts() == ["gen 1", "gen 2"]
        entry = page.locator(".entry").first.inner_text()
        assert all(name in entry for name in ("start", "health", "switch", "drain", "stop", "by 127.0.0.1:"))


def _seconds(text: str) -> int:
    found = re.search(r"closed in (?:(\d+)m)?(\d+)s", text)
    assert found, text
    return int(found[1] or 0) * 60 + int(found[2])


def test_back_and_forth_under_load_without_a_failed_request(story: Story, watched: Watched) -> None:
    page = watched.open(story.url)
    with Load(story.web, clients=4) as load, never_reloaded(page):
        load.wait_for(20)
        press(page, "Swap web", Version="v2")
        wait_for_active(page, "web", "v2")
        card(page, "web").get_by_text("healthy pid").nth(1).wait_for()
        press(page, "Roll back web", "Roll back to v1")
        wait_for_active(page, "web", "v1")
        press(page, "Restart web", "Restart v1")
        page.locator(".entry", has_text="web restart v1").wait_for()
        load.wait_for(20)
    assert not load.errors
    history = story.proxy.ask("GET", "/v1/history?service=web")[1]
    assert [each["kind"] for each in history["history"][-3:]] == ["swap", "rollback", "restart"]
    assert {each["by"]["via"] for each in history["history"][-3:]} == {"tcp"}


def test_a_swap_that_fails_shows_what_the_backend_said_last(story: Story, watched: Watched) -> None:
    page = watched.open(story.url)
    with never_reloaded(page):
        press(page, "Swap web", Version="broken")
        failure = card(page, "web").locator(".failure")
        failure.get_by_text("exited with status 3").wait_for()
        assert failure.locator("pre").inner_text() == "one moment\nKeyError: 'DATABASE_URL'"
        wait_for_active(page, "web", "v1")
        entry = page.locator(".entry").first
        entry.get_by_text("Why").click()
        assert "KeyError: 'DATABASE_URL'" in entry.inner_text()
        save(page, "page-failed")
        assert violations(page) == []


def test_what_cannot_be_is_said_in_the_dialog_and_the_way_out_is_too(story: Story, watched: Watched) -> None:
    page = watched.open(story.url)
    page.get_by_role("button", name="Swap chat").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Time for open connections").fill("soon")
    dialog.get_by_role("button", name="Swap", exact=True).click()
    alert = dialog.get_by_role("alert")
    alert.get_by_text('"soon" is not a duration').wait_for()
    assert violations(page) == []
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    watched.complaints[:] = [each for each in watched.complaints if "400" not in each]


def test_nobody_who_comes_while_it_is_paused_is_lost(story: Story, watched: Watched) -> None:
    page = watched.open(story.url)
    press(page, "Pause chat")
    card(page, "chat").locator("header").get_by_text("paused").wait_for()
    with Held(story.chat) as client:
        client.send()
        assert not client.has_answer()
        press(page, "Resume chat")
        assert client.answer()
    card(page, "chat").locator("header").get_by_text("serving").wait_for()
    page.locator(".entry", has_text="chat resume").wait_for()
    page.locator(".entry", has_text="chat pause").wait_for()


def test_an_edit_is_applied_or_its_mistakes_are_shown(story: Story, watched: Watched) -> None:
    page, path = watched.open(story.url), story.proxy.config
    before = path.read_text()
    path.write_text(before.replace("[services.chat.drain]", "[services.chat.drain]\ndeadlin = 5"))
    page.get_by_role("button", name="Reload", exact=True).click()
    dialog = page.get_by_role("dialog")
    assert str(path) in dialog.inner_text()
    dialog.get_by_role("button", name="Reload", exact=True).click()
    dialog.get_by_role("alert").get_by_text("services.chat.drain.deadlin unknown key").wait_for()
    path.write_text(before.replace('deadline = "60s"', 'deadline = "45s"'))
    dialog.get_by_role("button", name="Reload", exact=True).click()
    page.get_by_role("status").get_by_text("chat: drain.deadline: 1m → 45s").wait_for()
    path.write_text(before)
    story.proxy.ok("reload")
    watched.complaints[:] = [each for each in watched.complaints if "422" not in each]


def test_what_a_generation_prints_is_followed(story: Story, watched: Watched) -> None:
    page = watched.open(story.url)
    press(page, "Swap web", Version="talks")
    wait_for_active(page, "web", "talks")
    number = story.proxy.active("web")["id"]
    page.get_by_role("button", name=f"Logs of web generation {number}").click()
    log = page.get_by_role("log")
    log.get_by_text("listening").wait_for()
    with contextlib.suppress(OSError), Load(story.web, clients=1) as load:
        load.wait_for(1)
    log.get_by_text('"GET / HTTP/1.1" 200').first.wait_for()
    assert violations(page) == []
    page.get_by_role("button", name="Close").click()
    press(page, "Swap web", Version="v1")
    wait_for_active(page, "web", "v1")


def test_it_can_be_used_with_the_keyboard_alone(story: Story, watched: Watched) -> None:
    page = watched.open(story.url)
    wanted = page.get_by_role("button", name="Pause chat")
    wanted.wait_for()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.ariaLabel") == "Pause chat":
            break
    page.keyboard.press("Enter")
    page.get_by_role("dialog", name="Pause chat").wait_for()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.ariaLabel") == "Pause chat"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_it_is_for_everybody_by_day_and_by_night_and_on_a_phone(
    story: Story, watched: Watched, scheme: str, size: str
) -> None:
    options = {"viewport": PHONE, "device_scale_factor": 2} if size == "phone" else {}
    page = watched.open(story.url, color_scheme=scheme, **options)
    card(page, "web").wait_for()
    page.get_by_text("live", exact=True).wait_for()
    save(page, f"page-{size}-{scheme}")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert violations(page) == []
    page.get_by_role("button", name="Swap web").click()
    page.get_by_role("dialog").wait_for()
    save(page, f"page-{size}-{scheme}-swap", full=False)
    assert violations(page) == []


def test_a_control_process_that_dies_is_missed_and_met_again(tmp_path: Path, watched: Watched) -> None:
    story = Story(tmp_path)
    with story.proxy as proxy:
        page = watched.open(story.url)
        with never_reloaded(page), Load(story.web, clients=2) as load:
            page.get_by_text("live", exact=True).wait_for()
            assert proxy.process
            kill(proxy.pid)
            proxy.process.wait()
            page.get_by_role("alert").get_by_text("The connection to the proxy was lost").wait_for()
            assert page.get_by_role("button", name="Swap web").is_disabled()
            save(page, "page-lost")
            load.wait_for(20)  # clients notice nothing
            proxy.start()
            page.get_by_text("live", exact=True).wait_for()
            page.get_by_role("alert").wait_for(state="hidden")
            press(page, "Swap web", Version="v2")
            wait_for_active(page, "web", "v2")
        assert not load.errors
        press(page, "Stop", "Stop the proxy")
        page.get_by_role("alert").get_by_text("The connection to the proxy was lost").wait_for()
        assert proxy.process.wait(30) == 0
    watched.complaints[:] = [each for each in watched.complaints if "ERR_" not in each]
