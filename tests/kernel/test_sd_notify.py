from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from proxy.kernel.sd_notify import Notifier
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A service manager's socket, and what NOTIFY_SOCKET says of it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(5)
        name = str(tmp_path / "notify") if request.param == "path" else f"@proxyctl-test-{os.getpid()}"
        receiver.bind(name.replace("@", "\0", 1))
        yield receiver, name


def test_a_message_arrives_with_a_line_for_each_assignment(manager: tuple[socket.socket, str]) -> None:
    receiver, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    assert notifier
    assert notifier.send(READY=1, STATUS="web: v1\nREADY=0")
    assert receiver.recv(4096) == b"READY=1\nSTATUS=web: v1 READY=0"
    notifier.close()
    assert not notifier.send(READY=1)


def test_it_is_what_systemd_itself_would_send(manager: tuple[socket.socket, str]) -> None:
    receiver, name = manager
    status = "web: v1 serving, 3 connections"
    command = [need("systemd-notify", package="systemd"), "--no-block", "--ready", f"--status={status}"]
    subprocess.run(command, env={**os.environ, "NOTIFY_SOCKET": name}, check=True)
    theirs = {line for line in receiver.recv(4096).decode().splitlines() if not line.startswith("MAINPID")}
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.send(READY=1, STATUS=status)
    assert set(receiver.recv(4096).decode().splitlines()) == theirs
    notifier.close()


def test_nothing_is_left_in_the_environment_for_children_and_all_of_it_comes_back_for_an_exec() -> None:
    given = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "400000", "WATCHDOG_PID": str(os.getpid())}
    environ = {"PATH": "/bin", **given}
    notifier = Notifier.from_environment(environ)
    assert environ == {"PATH": "/bin"}
    assert notifier.watchdog == 0.4
    assert notifier.environment() == given
    notifier.close()


@pytest.mark.parametrize(
    ("variables", "watchdog"),
    [
        ({"WATCHDOG_USEC": "2000000"}, 2.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_PID": str(os.getpid())}, None),
    ],
)
def test_we_are_watched_only_where_it_is_us_who_is_meant(variables: dict[str, str], watchdog: float | None) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": "@x", **variables})
    assert notifier.watchdog == watchdog
    notifier.close()


def test_without_a_manager_nothing_happens() -> None:
    notifier = Notifier.from_environment({"WATCHDOG_USEC": "1000000"})
    assert not notifier
    assert notifier.watchdog is None
    assert not notifier.send(READY=1)


def test_a_manager_that_cannot_be_spoken_to_is_named_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "1000000"})
    assert not notifier
    assert notifier.watchdog is None
    assert "no Unix socket" in caplog.text
    assert notifier.environment()["NOTIFY_SOCKET"] == "vsock:2:1234"


@pytest.mark.parametrize("name", ["/nowhere/notify", "@nobody-listens-here", "/" + "x" * 200])
def test_a_manager_that_is_gone_costs_nothing_and_is_said_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    notifier = Notifier({"NOTIFY_SOCKET": name})
    assert [notifier.send(WATCHDOG=1) for _ in range(3)] == [False] * 3
    assert caplog.text.count("service manager cannot be told") == 1
    notifier.close()


def test_a_manager_that_does_not_read_never_blocks_us(manager: tuple[socket.socket, str]) -> None:
    receiver, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    while notifier.send(WATCHDOG=1):
        pass
    receiver.recv(64)
    assert notifier.send(READY=1)
    notifier.close()


def test_a_child_does_not_get_the_socket(manager: tuple[socket.socket, str]) -> None:
    before = _sockets_of_a_child()  # what this process was itself given by whoever started it
    notifier = Notifier({"NOTIFY_SOCKET": manager[1]})
    with_ours = _sockets_of_a_child()
    notifier.close()
    assert with_ours == before


def _sockets_of_a_child() -> set[str]:
    listed = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True, check=True)
    return set(re.findall(r"socket:\[\d+\]", listed.stdout))
