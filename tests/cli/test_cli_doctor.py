"""`proxyctl doctor`: each finding is right about a machine like that, and says how to change it."""

from __future__ import annotations

import json
import os
import re
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from proxy.cli import machine
from proxy.cli.doctor import render

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from proxy.cli.finding import Finding
    from tests.cli.conftest import FakeProxy, Result

ALL = (1 << 41) - 1


@pytest.mark.parametrize(
    ("finding", "level", "says"),
    [
        (machine.kernel("Linux", "6.18.44-generic"), "ok", "Linux 6.18.44-generic"),
        (machine.kernel("Linux", "5.4.0"), "warn", "steer"),
        (machine.kernel("Linux", "4.19.0-21-amd64"), "fail", "5.3 or newer"),
        (machine.kernel("Darwin", "23.1.0"), "fail", "needs Linux"),
        (machine.processors(4, "max 100000"), "ok", "4:"),
        (machine.processors(4, ""), "ok", "4:"),
        (machine.processors(4, "150000 100000"), "warn", "workers = 2"),
        (machine.processors(4, "50000 100000"), "warn", "workers = 1"),
        (machine.processors(4, "400000 100000"), "ok", "4:"),
        (machine.compiled(everything=True), "ok", "is compiled"),
        (machine.compiled(everything=False), "warn", "apt-get install gcc"),
        (machine.descriptors(1024, 1048576), "ok", "about 524256 connections"),
        (machine.descriptors(1024, 4096), "warn", "LimitNOFILE=1048576"),
        (machine.descriptors(10, 10), "warn", "about 0 connections"),
        (machine.privileges(0, ALL), "ok", "user 0, with KILL"),
        (machine.privileges(1000, 0), "warn", "without CAP_BPF"),
        (machine.privileges(1000, 0), "warn", "no capability"),
        (machine.privileges(0, ALL & ~(1 << 39)), "ok", "BPF"),  # SYS_ADMIN stands for it
        (machine.low_ports(0, 1024), "warn", "CAP_NET_BIND_SERVICE"),
        (machine.low_ports(1 << 10, 1024), "ok", "every port"),
        (machine.low_ports(0, 80), "ok", "from 80 on"),
        (machine.accept_queue(128), "warn", "net.core.somaxconn=4096"),
        (machine.accept_queue(4096), "ok", "4096 connections"),
        (machine.local_ports("32768\t60999"), "ok", "28232"),
        (machine.local_ports("50000\t50999"), "warn", "1000:"),
        (machine.local_ports(""), "warn", "0:"),
        (machine.cgroup("0::/system.slice/x.service", "cpu memory"), "ok", "version 2, /system.slice/x.service"),
        (machine.cgroup("12:cpu:/x", ""), "ok", "version 1"),
        (machine.first_process("tini"), "ok", "buries orphans"),
        (machine.first_process("proxyctl"), "ok", "may be process 1 itself"),
    ],
)
def test_findings(finding: Finding, level: str, says: str) -> None:
    assert finding.level == level
    assert says in f"{finding.value}\n{finding.fix}"
    assert bool(finding.fix) == (level != "ok")


def test_a_small_connection_table_is_a_warning_and_none_is_none() -> None:
    assert machine.tracked_connections("") == []
    assert [finding.level for finding in machine.tracked_connections("1024")] == ["warn"]
    assert [finding.level for finding in machine.tracked_connections("262144")] == ["ok"]


def test_a_folder_that_can_be_made_is_fine_and_one_that_cannot_is_not(tmp_path: Path) -> None:
    assert machine.folder("state_dir", tmp_path, "").value == str(tmp_path)
    assert machine.folder("state_dir", tmp_path / "a" / "b", "").value.endswith("(to be made)")
    (tmp_path / "file").touch()
    blocked = machine.folder("state_dir", tmp_path / "file" / "b", "set another one")
    assert (blocked.level, blocked.fix) == ("fail", "set another one")


def test_a_folder_of_somebody_else_is_said_to_be_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = machine.folder("state_dir", tmp_path / "x", "set another one")
    assert found.level == "fail"
    assert f"no permission to write in {tmp_path} (user {os.getuid()} owns it)" in found.value


def test_the_state_folder_is_said_to_have_room_and_an_owner(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    found = machine.state_folder(tmp_path)
    assert found.level == "ok"
    assert re.fullmatch(rf"{tmp_path}, \d+ MiB free, user {os.getuid()} owns it", found.value)
    to_be_made = machine.state_folder(tmp_path / "a" / "b").value
    assert re.search(rf"\(to be made\), \d+ MiB free, user {os.getuid()} owns {tmp_path}$", to_be_made)


def test_a_state_folder_that_others_may_write_to_is_a_warning(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    found = machine.state_folder(tmp_path)
    assert (found.level, found.fix.split(":")[0]) == ("warn", f"chmod 700 {tmp_path}")
    assert "other users may write to it (mode 0777)" in found.value


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a folder away")
def test_a_state_folder_of_another_user_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    os.chown(tmp_path / "state", 12345, 12345)
    found = machine.state_folder(tmp_path / "state")
    assert found.level == "warn"
    assert "user 12345 owns it" in found.value
    assert found.fix.startswith(f"chown 0 {tmp_path}/state: ")


def test_a_disk_that_is_almost_full_or_read_only_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk(*, free: int = 1 << 30, flags: int = 0) -> Callable[[object], SimpleNamespace]:
        return lambda _: SimpleNamespace(f_bavail=free, f_frsize=1, f_flag=flags)

    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "statvfs", disk(free=5 << 20))
    full = machine.state_folder(tmp_path)
    assert full.level == "warn"
    assert ", 5 MiB free, " in full.value
    monkeypatch.setattr(os, "statvfs", disk(flags=os.ST_RDONLY))
    frozen = machine.state_folder(tmp_path)
    assert frozen.level == "fail"
    assert "read-only" in frozen.value
    (tmp_path / "lock").touch()  # of an earlier run: then it can start
    assert machine.state_folder(tmp_path).level == "warn"


def test_a_running_proxy_is_named(proxy: FakeProxy) -> None:
    findings = machine.sockets(proxy.socket)
    assert [finding.name for finding in findings] == ["control socket", "running proxy"]
    assert findings[1].value.startswith(f"process {os.getpid()}: ")


def test_a_dead_proxys_socket_is_none(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    assert [finding.name for finding in machine.sockets(tmp_path / "dead.sock")] == ["control socket"]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROXYCTL_SOCKET", raising=False)
    (tmp_path / "proxy.toml").write_text(
        f'state_dir = "{tmp_path}/state"\n'
        '[services.web]\nlisten = "127.0.0.1:8080"\nactive = "v1"\n'
        '[services.web.versions.v1]\ncommand = "./app {port}"\n'
    )
    return tmp_path / "proxy.toml"


def test_the_configs_places_are_looked_at(config: Path, proxyctl: Callable[..., Result]) -> None:
    result = proxyctl("doctor")
    assert result.code == 0
    assert f"{config.parent}/state (to be made)" in result.out
    assert f"{config.parent}/x (to be made)" in proxyctl("doctor", "--socket", "x/control.sock").out


def test_what_stops_a_proxy_from_running_exits_with_1(config: Path, proxyctl: Callable[..., Result]) -> None:
    (config.parent / "state").touch()
    result = proxyctl("doctor", "--json")
    report = json.loads(result.out)
    assert (result.code, report["ok"]) == (1, False)
    assert [each["name"] for each in report["findings"] if each["level"] == "fail"] == ["state_dir"]


def test_a_config_that_is_wrong_is_no_obstacle(config: Path, proxyctl: Callable[..., Result]) -> None:
    config.write_text("wrong")
    assert "descriptors" in proxyctl("doctor").out


@pytest.mark.parametrize("width", [40, 80])
def test_it_is_wrapped_to_the_screen(width: int) -> None:
    findings = [machine.descriptors(1024, 4096), machine.privileges(1000, 0)]
    assert all(len(line) <= width for line in render(findings, width))
