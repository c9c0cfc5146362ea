"""The verbs that ask one thing and print the answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from proxy.cli import history, run
from proxy.cli.cells import span
from proxy.errors import ConfigError, Problem
from tests.fakes import result_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import FakeProxy, Result

PROXYCTL = [sys.executable, "-P", "-m", "proxy.cli"]


def test_pause_and_resume(proxy: FakeProxy, proxyctl: Callable[..., Result]) -> None:
    assert "web: paused" in proxyctl("pause").out
    assert proxy.control.state["services"]["web"]["state"] == "paused"
    assert proxyctl("resume", "--service", "web").out == "web: resumed; the service is serving\n"


def test_reload_tells_changes_and_warnings(proxy: FakeProxy, proxyctl: Callable[..., Result]) -> None:
    result = proxyctl("reload")
    assert (result.code, result.out) == (0, "web: version v2 was added\n")
    assert result.err == "warning: workers changes at the next start\n"
    assert list(json.loads(proxyctl("reload", "--json").out)) == ["changes", "warnings"]


def test_reload_of_a_wrong_config_shows_every_error(proxy: FakeProxy, proxyctl: Callable[..., Result]) -> None:
    problems = [Problem("proxy.toml", line, 1, "services.web", "wrong", "right") for line in (3, 7)]
    proxy.control.problem = ConfigError(problems)
    result = proxyctl("reload")
    assert result.code == 2
    for problem in problems:
        assert str(problem) in result.err


def test_history_is_a_table_with_reasons(proxy: FakeProxy, proxyctl: Callable[..., Result]) -> None:
    assert proxyctl("history").out == "nothing has been swapped yet\n"
    phases = {"start": 0.1, "health": 0.2, "switch": 0.0, "drain": 0.0, "stop": 0.0}
    failed = result_of(result="failed", to="v3", error="exited with status 1", phases=phases)
    proxy.control.entries = [result_of(), failed]
    head, first, second, reason = proxyctl("history").out.splitlines()
    assert head.split()[:7] == ["WHEN", "SERVICE", "WHAT", "FROM", "TO", "RESULT", "TOOK"]
    assert first.split()[2:8] == ["web", "swap", "v1", "v2", "swapped", "2.00s"]
    assert second.split()[6:13] == ["failed", "2.00s", "100ms", "200ms", "-", "-", "-"]
    assert reason == "  exited with status 1"
    assert " - " not in first
    assert proxyctl("history", "-n", "1").out.count("\n") == 3
    assert json.loads(proxyctl("history", "--json").out) == {"history": proxy.control.entries, "actions": []}
    assert proxyctl("history", "--service", "d b").out == "nothing has been swapped yet\n"


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (
            80,
            [
                "WHEN                 SERVICE  WHAT      FROM  TO  RESULT        TOOK",
                "2026-09-10 00:26:40  web      swap      v1    v2  swapped      2.00s",
                "  start 10ms, health 200ms, switch 1ms, drain 1.50s, stop 50ms, drained 3,",
                "  forced 0",
                "2026-09-10 00:26:40  web      rollback  v1    v2  rolled_back  2.00s",
                r"  it said \x1b[31m",
                "  start 10ms, health 200ms, switch 1ms, drain 1.50s, stop 50ms, drained 3,",
                "  forced 0",
            ],
        ),
        (
            40,
            [
                "WHEN                 TO  RESULT",
                "2026-09-10 00:26:40  v2  swapped",
                "  service web, what swap, from v1,",
                "  took 2.00s, start 10ms, health 200ms,",
                "  switch 1ms, drain 1.50s, stop 50ms,",
                "  drained 3, forced 0",
                "2026-09-10 00:26:40  v2  rolled_back",
                r"  it said \x1b[31m",
                "  service web, what rollback, from v1,",
                "  took 2.00s, start 10ms, health 200ms,",
                "  switch 1ms, drain 1.50s, stop 50ms,",
                "  drained 3, forced 0",
            ],
        ),
    ],
)
def test_history_on_a_narrow_screen_tells_below_a_swap_what_has_no_room_beside_it(
    width: int, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "localtime", time.gmtime)
    rolled_back = result_of("rollback", result="rolled_back", error="it said \x1b[31m")
    assert history.render([result_of(), rolled_back], width=width) == lines


@pytest.mark.parametrize("width", [10, 20, 60])
def test_history_is_never_wider_than_the_screen(width: int) -> None:
    entries = [result_of(to="v" * 64, result="failed", error="日本語 " * 30), result_of(overlap=0.1)]
    assert all(span(line) <= width for line in history.render(entries, width=width))


def test_history_says_who_asked_for_what_and_has_what_is_no_swap_in_its_place(
    proxy: FakeProxy, proxyctl: Callable[..., Result]
) -> None:
    swap, pause, reload, stop = (
        {"via": "tcp", "from": "10.0.0.7:50412", "as": "token"},
        {"via": "socket", "from": "pid 12 (proxyctl pause)", "as": "root"},
        {"via": "signal", "from": "SIGHUP", "as": ""},
        {"via": "", "from": "", "as": ""},
    )
    proxy.control.entries = [result_of(by=swap, started=1789000100.0, finished=1789000101.0), result_of()]
    proxy.control.done = [
        {"time": 1789000100.0, "action": "swap", "service": "web", "operation": 1, "by": swap},
        {"time": 1789000050.0, "action": "pause", "service": "web", "by": pause},
        {"time": 1789000200.0, "action": "reload", "service": None, "by": reload, "changes": 2},
        {"time": 1789000300.0, "action": "stop", "service": None, "by": stop, "now": True},
    ]
    head, *lines = proxyctl("history").out.splitlines()
    assert head.split()[-1] == "BY"
    assert [line.split()[2:4] for line in lines] == [
        ["web", "swap"],
        ["web", "pause"],
        ["web", "swap"],
        ["-", "reload"],
        ["-", "stop"],
    ]
    ends = ["  -", "  root, pid 12 (proxyctl pause)", "  token, 10.0.0.7:50412", "  SIGHUP", "  -"]
    assert [line.endswith(end) for line, end in zip(lines, ends, strict=True)] == [True] * 5
    assert "stop now" in lines[-1]
    assert len(proxyctl("history", "-n", "2").out.splitlines()) == 3


def test_history_shows_for_how_long_both_accepted_where_they_did(
    proxy: FakeProxy, proxyctl: Callable[..., Result]
) -> None:
    proxy.control.entries = [result_of(overlap=None), result_of()]
    assert "OVERLAP" not in proxyctl("history").out
    proxy.control.entries = [result_of(), result_of(overlap=0.12)]
    head, first, second = proxyctl("history").out.splitlines()
    assert [line.split()[-1] for line in (head, first, second)] == ["OVERLAP", "-", "120ms"]


def test_logs_are_what_was_printed(proxy: FakeProxy, tmp_path: Path, proxyctl: Callable[..., Result]) -> None:
    proxy.control.folder = tmp_path
    (tmp_path / "1.0.log").write_bytes(b"one\ntwo\xff\nthree\n")
    assert proxyctl("logs", "v1", "-n", "1").out == "three\n"
    raw = subprocess.run([*PROXYCTL, "logs", "v1"], capture_output=True, check=True)
    assert raw.stdout == b"one\ntwo\xff\nthree\n"


def test_logs_of_a_silent_or_an_unknown_version_say_which(proxy: FakeProxy, proxyctl: Callable[..., Result]) -> None:
    proxy.control.state["services"]["web"]["versions"] = ["v1", "v2"]
    silent = proxyctl("logs", "v1")
    assert (silent.code, silent.out) == (0, "")
    assert "v1 has printed nothing" in silent.err
    unknown = proxyctl("logs", "v9")
    assert (unknown.code, unknown.err) == (2, "proxyctl: there is no version v9 of web\n  there is v1, v2\n")


def test_logs_follow_until_ctrl_c(proxy: FakeProxy, tmp_path: Path) -> None:
    proxy.control.folder = tmp_path
    log = tmp_path / "1.0.log"
    log.write_text("old\n")
    follow = subprocess.Popen([*PROXYCTL, "logs", "v1", "-f"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert follow.stdout
    assert follow.stdout.readline() == b"old\n"
    with log.open("a") as file:
        file.write("new\n")
    assert follow.stdout.readline() == b"new\n"
    follow.send_signal(signal.SIGINT)
    _, told = follow.communicate(timeout=10)
    assert (follow.returncode, told) == (130, b"")


def test_logs_that_end_because_the_proxy_does_say_so(proxy: FakeProxy, tmp_path: Path) -> None:
    proxy.control.folder = tmp_path
    (tmp_path / "1.0.log").write_text("old\n")
    follow = subprocess.Popen([*PROXYCTL, "logs", "v1", "-f"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert follow.stdout
    assert follow.stdout.readline() == b"old\n"
    proxy.end()
    _, told = follow.communicate(timeout=10)
    assert follow.returncode == 3
    assert b"the proxy ended the log stream" in told


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """What `run` became, each time; nothing is executed."""
    calls: list[list[str]] = []

    def execv(program: str, arguments: list[str]) -> None:
        assert program == sys.executable
        calls.append(arguments[1:])

    monkeypatch.setattr(run.os, "execv", execv)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROXYCTL_SOCKET", raising=False)
    return calls


def options(arguments: list[str]) -> dict[str, Any]:
    assert arguments[:3] == ["-P", "-m", "proxy.main"]
    return dict(zip(arguments[3::2], arguments[4::2], strict=True))


def test_run_becomes_the_proxy(became: list[list[str]], tmp_path: Path, proxyctl: Callable[..., Result]) -> None:
    (tmp_path / "proxy.toml").touch()
    assert proxyctl("run").code == 0
    assert options(became[0]) == {"--config": "proxy.toml", "--log-format": "text", "--log-level": "info"}
    assert proxyctl("--socket", "x.sock", "run", "other.toml", "--log-format", "json", "--log-level", "debug").code == 0
    assert options(became[1]) == {
        "--config": "other.toml",
        "--log-format": "json",
        "--log-level": "debug",
        "--socket": f"{tmp_path}/x.sock",
    }


def test_run_knows_where_the_access_log_is_whatever_folder_the_proxy_works_in(
    became: list[list[str]], tmp_path: Path, proxyctl: Callable[..., Result]
) -> None:
    (tmp_path / "proxy.toml").touch()
    assert proxyctl("run", "--access-log", "access.log").code == 0
    assert options(became[0])["--access-log"] == f"{tmp_path}/access.log"
    assert not (tmp_path / "access.log").exists()

    (tmp_path / "old.log").write_text("kept\n")
    os.mkfifo(tmp_path / "pipe")
    for place in ("old.log", "pipe", "/dev/stdout", "/dev/null"):
        assert proxyctl("run", "--access-log", place).code == 0
        assert options(became[-1])["--access-log"] == str(tmp_path / place)
    assert (tmp_path / "old.log").read_text() == "kept\n"


@pytest.mark.parametrize(
    ("place", "reason", "hint"),
    [
        ("gone/access.log", "there is no folder", "mkdir -p "),
        (".", "is a directory", "name a file"),
        ("proxy.toml/access.log", "not a directory", "name a file"),
        ("", "is a directory", "name a file"),
        ("x" * 300, "file name too long", "name a file"),
    ],
)
def test_an_access_log_that_cannot_be_written_is_wrong_usage_and_nothing_starts(
    place: str, reason: str, hint: str, became: list[list[str]], tmp_path: Path, proxyctl: Callable[..., Result]
) -> None:
    (tmp_path / "proxy.toml").touch()
    result = proxyctl("run", "--access-log", place)
    assert (result.code, became) == (2, [])
    assert reason in result.err
    assert f"\n  {hint}" in result.err


@pytest.mark.parametrize("name", ["new.log", "pipe"])
def test_an_access_log_of_somebody_else_is_wrong_usage(
    name: str,
    became: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    proxyctl: Callable[..., Result],
) -> None:
    (tmp_path / "proxy.toml").touch()
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(run.os, "access", lambda _path, _mode: False)  # root may do everything
    result = proxyctl("run", "--access-log", name)
    assert (result.code, became) == (2, [])
    assert result.err.startswith(f"proxyctl: --access-log: {tmp_path}/{name} cannot be written to: permission denied\n")


def test_run_and_the_other_verbs_agree_on_the_socket(
    became: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxyctl: Callable[..., Result]
) -> None:
    (tmp_path / "proxy.toml").touch()
    monkeypatch.setenv("PROXYCTL_SOCKET", "/of-environment.sock")
    assert proxyctl("run").code == 0
    assert options(became[0])["--socket"] == "/of-environment.sock"


def test_run_without_a_config_says_where_it_looked(
    became: list[list[str]], tmp_path: Path, proxyctl: Callable[..., Result]
) -> None:
    if os.path.exists("/etc/proxyctl/proxy.toml"):
        pytest.skip("this machine has a config in /etc/proxyctl")
    result = proxyctl("run")
    assert (result.code, became) == (2, [])
    assert str(tmp_path / "proxy.toml") in result.err
