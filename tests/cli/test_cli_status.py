"""`proxyctl status`, once and watching."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.fakes import STATUS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import FakeProxy, Result

PROXYCTL = [sys.executable, "-P", "-m", "proxy.cli"]


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


def test_watch_on_a_terminal_draws_over_itself_and_ends_with_the_proxy(proxy: FakeProxy) -> None:
    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30", "NO_COLOR": "1"}
    watch = subprocess.Popen([*PROXYCTL, "status", "-w"], stdout=terminal, stderr=subprocess.PIPE, env=environment)
    os.close(terminal)
    shown = b""
    while b"web serving v1" not in shown:
        shown += os.read(controller, 65536)
    assert shown.lstrip(b"\r\n").startswith(b"\x1b[H")
    assert b"\x1b[31m" not in shown
    proxy.end()
    _, told = watch.communicate(timeout=10)
    os.close(controller)
    assert watch.returncode == 3
    assert b"no proxy answers on" in told
