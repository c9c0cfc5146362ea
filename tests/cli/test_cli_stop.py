"""`proxyctl stop` returns when the process is gone, and not before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from proxy.cli import stop
from proxy.cli.client import Client
from tests.fakes import STATUS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cli.conftest import FakeProxy, Result

PROXYCTL = [sys.executable, "-P", "-m", "proxy.cli"]


@pytest.fixture
def process(proxy: FakeProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for the proxy's; it ends when its stdin does."""
    monkeypatch.setattr(stop, "_TICK", 0.01)
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        proxy.control.state["proxy"]["pid"] = process.pid
        monkeypatch.setattr(Client, "pid", lambda _client: process.pid)
        yield process
        process.kill()


def finish(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin
    process.stdin.close()


def test_it_waits_for_the_process_and_shows_what_is_open(
    proxy: FakeProxy, process: subprocess.Popen[bytes], proxyctl: Callable[..., Result]
) -> None:
    looks = 0
    status = proxy.control.status

    async def watched() -> Any:
        nonlocal looks
        looks += 1
        if looks == 3:
            proxy.control.state["services"]["web"]["generations"][0]["connections"] = 4
        if looks == 6:
            finish(process)
        return await status()

    proxy.control.status = watched  # type: ignore[method-assign]
    result = proxyctl("stop", "--now")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines == ["stopping: 10 connections open", "stopping: 4 connections open", "the proxy has stopped"]
    assert process.poll() is not None
    assert proxy.control.calls == [("stop", True)]


def test_the_end_of_the_api_is_not_taken_for_the_end_of_the_process(
    proxy: FakeProxy,
    process: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
    proxyctl: Callable[..., Result],
) -> None:
    proxy.control.stop = lambda *_, **__: threading.Thread(target=proxy.end).start()  # type: ignore[method-assign]
    tell, silent = stop._tell, 0

    def watched(client: Client, told: str) -> str:
        nonlocal silent
        if not proxy.is_alive():
            silent += 1
            if silent == 3:
                finish(process)
        return tell(client, told)

    monkeypatch.setattr(stop, "_tell", watched)
    result = proxyctl("stop")
    assert (result.code, result.err) == (0, "")
    assert silent >= 3  # once more where the end of the process is not seen at once
    assert process.poll() is not None


def test_a_proxy_of_another_pid_namespace_is_gone_when_nobody_answers(
    proxy: FakeProxy, proxyctl: Callable[..., Result]
) -> None:
    """Its status says process 1; that one here is another."""
    assert proxy.control.state["proxy"]["pid"] == 1
    proxy.control.stop = lambda *_, **__: threading.Thread(target=proxy.end).start()  # type: ignore[method-assign]
    result = proxyctl("stop")
    assert (result.code, result.out.splitlines()[-1]) == (0, "the proxy has stopped")


def test_ctrl_c_detaches(proxy: FakeProxy) -> None:
    proxy.control.state["proxy"]["pid"] = os.getpid()
    waiting = subprocess.Popen([*PROXYCTL, "stop"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert waiting.stdout
    assert waiting.stdout.readline() == "stopping: 10 connections open\n"
    waiting.send_signal(signal.SIGINT)
    _, told = waiting.communicate(timeout=10)
    assert waiting.returncode == 130
    assert told.startswith("proxyctl: detached; the proxy goes on stopping\n")


def test_what_remains_names_the_latest_deadline() -> None:
    drain = {"started": 0.0, "deadline": 130.0, "initial": 5, "remaining": 2, "forced": 0}
    generation = {**STATUS["services"]["web"]["generations"][0], "connections": 2, "drain": drain}
    status = {**STATUS, "services": {"web": {"generations": [generation]}, "db": {"generations": []}}}
    forms = {
        None: "stopping: 2 connections open, closed in 23s at the latest",
        40: "stopping: 2 open, 23s left",
        20: "2, 23s",
    }
    assert {room: stop.remaining(status, 107.0, room) for room in forms} == forms
