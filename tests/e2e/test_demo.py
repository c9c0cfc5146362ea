"""`proxyctl demo` as a user runs it: it must work, tell the truth, and leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import PATIENCE, eventually, fetch, processes_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEMO = (sys.executable, "-P", "-m", "proxy.cli", "demo")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Where the demo makes its folder, its only place to write to; checks that nothing is left there or runs."""
    yield tmp_path
    with processes_of(str(tmp_path)) as running:
        eventually(lambda: not running(), what=f"the end of {running()}")
    assert list(tmp_path.iterdir()) == []


def start(
    home: Path,
    *arguments: str,
    program: tuple[str, ...] = DEMO,
    output: int = subprocess.PIPE,
    **environment: str,
) -> subprocess.Popen[str]:
    """In an empty environment, so that whatever runs because of it can be told by the TMPDIR in its own."""
    return subprocess.Popen(
        [*program, *arguments],
        env={"PATH": os.defpath, "TMPDIR": str(home), **environment},
        cwd=home,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _assert_success(text: str) -> None:
    assert re.search(r"requests +[\d,]+ sent, 0 failed", text), text
    assert re.search(r"connections +16 .*: 0 reopened, 16 still open at the end, 16 spoke with both versions", text), (
        text
    )
    assert re.search(r"POSTs +[\d,]+ sent, each processed exactly once", text), text
    assert re.search(r"websocket +\d+ messages to v1, [1-9]\d* of them after the switch; closed in order", text), text
    assert re.search(r"download +4\.1 MB from v1 .*; every byte as sent", text), text
    waits = ["", "", r" \(websocket, download\)", ""]
    for (origin, target), wait in zip([("v1", "v2"), ("v2", "v1")] * 2, waits, strict=True):
        swap = (
            rf"{origin} -> {target} +switch .*, drain [\d.]+m?s{wait}; 0 connections cut, 0 late answers from {origin}"
        )
        assert re.search(swap, text), text
    assert re.search(r"proxy_http_migrated_connections_total [1-9]\d*, proxy_http_retries_total \d+", text), text
    assert "\x1b" not in text, "colours where there is no terminal"


def test_on_a_terminal_one_line_tells_how_things_stand_and_ctrl_c_leaves_nothing_behind(home: Path) -> None:
    controller, terminal = os.openpty()
    with start(home, TERM="xterm", output=terminal) as demo, open(controller, "rb", buffering=0) as screen:
        os.close(terminal)
        seen = b""
        while b"\x1b[32m" not in seen or b"$ proxyctl swap v2" not in seen:
            seen += screen.read(4096)
        demo.send_signal(signal.SIGINT)
        demo.send_signal(signal.SIGINT)  # an impatient user's second Ctrl-C must not interrupt the cleaning up
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal open any more
            while piece := screen.read(4096):
                seen += piece
    standing = [line for line in seen.split(b"\r\x1b[K") if b"connections reopened" in line]
    assert len(standing) > 1
    assert demo.returncode == 128 + signal.SIGINT, seen
    assert b"the proxy and all that it ran are gone" in seen


def test_the_demo_succeeds_without_a_failed_request_and_every_command_that_it_prints_works(home: Path) -> None:
    # Somebody's own proxy, which must not be touched: PROXYCTL_SOCKET would lead there.
    with start(home, "--keep", PROXYCTL_SOCKET="/nowhere/control.sock") as demo:
        text = demo.communicate(timeout=60)[0]
    assert demo.returncode == 0, text
    _assert_success(text)
    try:
        port = int(re.findall(r"curl http://127\.0\.0\.1:(\d+)/", text)[0])
        assert fetch(port).startswith("v1,")
        commands = re.findall(rf"^  ({re.escape(sys.executable)} -m proxy\.cli .*)$", text, re.MULTILINE)
        assert len(commands) == 6
        assert commands[-1].endswith(f" && rm -r {next(home.iterdir())}")
        for command in commands[:-1]:
            done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert fetch(port).startswith("v3,")
    finally:
        subprocess.run(commands[-1], shell=True, check=True, stdout=subprocess.DEVNULL, timeout=60)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_demo_leaves_nothing_behind(home: Path, number: signal.Signals) -> None:
    with start(home) as demo:
        assert demo.stdout
        seen = ""
        while "$ proxyctl swap v2" not in seen:
            line = demo.stdout.readline()
            assert line, seen
            seen += line
        demo.send_signal(number)
        demo.send_signal(number)  # again, as in the test above
        rest = demo.communicate(timeout=PATIENCE)[0]
    assert demo.returncode == 128 + number, seen + rest
    assert "the proxy and all that it ran are gone" in rest
