"""`proxyctl status`, once and watching."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

from proxy.cli import watch
from proxy.cli.client import Client
from proxy.cli.events import Events
from proxy.cli.where import Where
from tests.fakes import STATUS, result_of
from tests.screens import PROXYCTL, Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import FakeProxy, Result


def test_the_table_and_the_object(proxy: FakeProxy, proxyctl: Callable[..., Result]) -> None:
    result = proxyctl("status")
    assert (result.code, result.err) == (0, "")
    assert "web serving v1 on 0.0.0.0:8080" in result.out
    assert json.loads(proxyctl("status", "--json").out) == STATUS


def test_one_service_of_several(proxy: FakeProxy, proxyctl: Callable[..., Result]) -> None:
    proxy.control.state["services"]["db"] = proxy.control.state["services"]["web"]
    assert list(json.loads(proxyctl("status", "--json", "--service", "db").out)["services"]) == ["db"]
    unknown = proxyctl("status", "--service", "wbe")
    assert (unknown.code, unknown.err) == (2, "proxyctl: there is no service wbe\n  there is web, db\n")


def test_watch_without_a_terminal_tells_each_change(proxy: FakeProxy) -> None:
    watch = subprocess.Popen([*PROXYCTL, "status", "--watch", "--json"], stdout=subprocess.PIPE, text=True)
    assert watch.stdout
    assert json.loads(watch.stdout.readline())["services"]["web"]["state"] == "serving"

    def pause() -> None:
        proxy.control.state["services"]["web"]["state"] = "paused"
        proxy.control.publish("service", service="web", state="paused")

    proxy.do(pause)
    assert json.loads(watch.stdout.readline())["services"]["web"]["state"] == "paused"
    watch.send_signal(signal.SIGINT)
    watch.communicate(timeout=10)
    assert watch.returncode == 0  # the way to end it


def test_watch_without_a_terminal_ends_with_the_proxy(proxy: FakeProxy) -> None:
    watch = subprocess.Popen(
        [*PROXYCTL, "status", "-w"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert watch.stdout
    while "web serving v1" not in watch.stdout.readline():
        pass
    proxy.end()
    _, told = watch.communicate(timeout=20)
    assert watch.returncode == 3
    assert "no proxy answers on" in told


def test_watch_on_a_terminal_draws_over_itself(proxy: FakeProxy) -> None:
    def pause() -> None:
        proxy.control.state["services"]["web"]["state"] = "paused"
        proxy.control.publish("service", service="web", state="paused")

    with Terminal("status", "-w") as terminal:
        terminal.shows("web serving v1")
        proxy.do(pause)
        terminal.shows("web paused v1")
        assert [line.split()[0] for line in terminal.lines if line] == ["proxy", "web", "GEN", "1"]
        terminal.interrupt()
        assert terminal.end() == 0
        assert terminal.is_left_clean()
        assert terminal.screen.overlong == 0
        assert "^C" not in "\n".join(terminal.lines)


def test_watch_keeps_the_last_picture_while_no_proxy_answers_and_says_so(proxy: FakeProxy) -> None:
    with Terminal("status", "-w") as terminal:
        terminal.shows("web serving v1")
        proxy.end()
        terminal.shows("no answer for ", "; this is what was seen last:", "web serving v1", "no proxy answers on")
        proxy.control.state["services"]["web"]["active"] = "v2"
        proxy.start()
        terminal.shows("web serving v2")
        assert terminal.lines[0].startswith("proxy 0.1.0")
        terminal.interrupt()
        assert terminal.end() == 0


OPERATION = {"id": 7, "service": "web", "kind": "swap", "from": "v1", "to": "v2", "phase": "start", "started": 1.0}


def begin(proxy: FakeProxy, *events: dict[str, Any]) -> None:
    """A swap, as far as these events; the status says so too."""
    proxy.control.state["services"]["web"]["operation"] = {**OPERATION, "started": time.time()}
    for event in events:
        proxy.control.publish("phase", operation=7, service="web", **event)


def test_watch_shows_the_phases_as_they_pass(proxy: FakeProxy) -> None:
    with Terminal("status", "-w") as terminal:
        terminal.shows("web serving v1")
        proxy.do(begin, proxy, {"phase": "start", "state": "begin"})
        terminal.shows("swap v1 -> v2: start", "> start", "· health  · switch  · drain  · stop")
        proxy.do(
            begin, proxy, {"phase": "start", "state": "end", "seconds": 0.012}, {"phase": "health", "state": "begin"}
        )
        terminal.shows("swap v1 -> v2: health", "✓ start 12ms  > health")

        def end() -> None:
            web = proxy.control.state["services"]["web"]
            operation = {**web["operation"], "finished": time.time()}
            web["last_swap"] = result_of(**operation | {"result": "failed", "error": "exited with status 1"})
            proxy.control.publish("result", operation=7, service="web", result=web["last_swap"])

        proxy.do(end)  # the status may still have the operation at that moment
        terminal.until(lambda screen: "last: swap v1 -> v2 failed" in screen and "health" not in screen)


def test_watch_that_comes_in_the_middle_shows_what_is_left(proxy: FakeProxy) -> None:
    with Terminal("status", "-w") as terminal:
        terminal.shows("web serving v1")
        event = {"type": "phase", "operation": 9, "service": "web"}
        proxy.do(lambda: proxy.control.publish(**event | {"kind": "phase", "phase": "drain", "state": "begin"}))
        terminal.shows("an operation: drain", "> drain", "· stop")
        assert "start" not in "\n".join(terminal.lines)


def test_watch_shows_the_phases_of_an_upgrade(proxy: FakeProxy) -> None:
    proxy.control.ending = None
    proxy.control.story = [
        {"phase": "check", "state": "begin"},
        {"phase": "check", "state": "end", "seconds": 0.9},
        {"phase": "exec", "state": "begin"},
    ]
    with Terminal("status", "-w") as terminal:
        terminal.shows("web serving v1")
        with Terminal("upgrade", "--no-wait") as upgrade:
            assert upgrade.end() == 0
        terminal.shows("upgrade from 0.1.0", "✓ check 900ms  > exec", "· adopt  · workers")
        proxy.do(proxy.control.end_upgrade)
        terminal.until(lambda screen: "upgrade" not in screen)


def draining(remaining: int) -> dict[str, Any]:
    """A generation with so many of four connections left."""
    drain = {"deadline": time.time() + 100, "initial": 4, "remaining": remaining, "forced": 0}
    return {**copy.deepcopy(STATUS["services"]["web"]["generations"][0]), "state": "draining", "drain": drain}


def test_watch_counts_down_without_any_event(proxy: FakeProxy) -> None:
    proxy.control.state["services"]["web"]["generations"] = [draining(3)]
    with Terminal("status", "-w") as terminal:
        left = terminal.until(lambda screen: seconds_left(screen, "3 of 4 left to drain, closed in "))
        terminal.until(lambda screen: (now := seconds_left(screen, "closed in ")) and now < left)


def test_what_counts_is_drawn_at_least_once_a_second_and_the_rest_seldom() -> None:
    waited: list[float] = []

    class Silent:
        def wait(self, seconds: float) -> list[Any]:
            waited.append(seconds)
            return []

    reader, writer = os.pipe2(os.O_NONBLOCK)
    view = watch._View(None, None, Silent(), reader)  # type: ignore[arg-type]
    for service in ({}, {"operation": OPERATION}, {"generations": [draining(3)]}):
        status = copy.deepcopy(STATUS)
        status["services"]["web"] |= service
        view.see(status)
        view.wait()
    os.close(reader)
    os.close(writer)
    assert waited[0] > 1
    assert max(waited[1:]) <= 1


def seconds_left(screen: str, words: str) -> int | None:
    """The number of `1m38s` behind some words."""
    _, found, rest = screen.partition(words)
    if not found:
        return None
    minutes, _, seconds = rest.split("s", 1)[0].rpartition("m")
    return int(minutes or 0) * 60 + int(seconds)


def test_watch_follows_the_window(proxy: FakeProxy) -> None:
    with Terminal("status", "-w", columns=100) as terminal:
        terminal.shows("HEALTHY")
        terminal.resize(30, 12)
        terminal.until(lambda screen: "HEALTHY" not in screen and "VERSION" in screen)
        terminal.resize(90, 20)
        terminal.until(lambda screen: "HEALTHY" in screen)
        assert "\n".join(terminal.lines).count("VERSION") == 1


def test_a_change_of_the_window_wakes_up_who_waits_for_events(proxy: FakeProxy) -> None:
    before = signal.getsignal(signal.SIGWINCH)
    with watch._resizes() as resized, Events(Client(Where(proxy.socket, "")), resized) as events:
        os.kill(os.getpid(), signal.SIGWINCH)
        assert events.wait(30) == []
        assert os.read(resized, 100) == bytes([signal.SIGWINCH])
    assert signal.getsignal(signal.SIGWINCH) is before


def test_watch_says_how_much_does_not_fit(proxy: FakeProxy) -> None:
    services = proxy.control.state["services"]
    services |= {f"s{number}": services["web"] for number in range(9)}
    with Terminal("status", "-w", columns=40, rows=12) as terminal:
        terminal.shows("web serving v1")  # a line for the proxy, three for each service, and one for the cursor
        assert terminal.lines[-1] == "… 21 more lines, in a taller window"
        assert len(terminal.lines) == 11
