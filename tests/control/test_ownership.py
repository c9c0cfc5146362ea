from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from proxy.control import ownership
from proxy.core.address import Address

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LISTEN = """
import socket, sys, time
family, host, port, v6_only, reuse = sys.argv[1:]
s = socket.socket(int(family))
if family == "10": s.setsockopt(41, 26, int(v6_only))
if int(reuse): s.setsockopt(1, socket.SO_REUSEPORT, 1)
s.bind(host if family == "1" else (host, int(port)))
s.listen()
print(s.getsockname()[1] if family != "1" else 0, flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def listener(host: str, port: int = 0, *, v6_only: bool = False, reuse: bool = False) -> Iterator[tuple[int, int]]:
    """Another process that listens: its pid and port."""
    family = socket.AF_UNIX if "/" in host else socket.AF_INET6 if ":" in host else socket.AF_INET
    words: list[Any] = [sys.executable, "-c", LISTEN, int(family), host, port, int(v6_only), int(reuse)]
    with subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            yield process.pid, int(process.stdout.readline())
        finally:
            process.kill()


def local(port: int, host: str = "127.0.0.1") -> Address:
    return Address(host=host, port=port)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::", "::ffff:127.0.0.1"])
def test_whoever_would_be_connected_to_is_found(host: str) -> None:
    with listener(host) as (pid, port):
        assert ownership.strangers(local(port), {os.getpid()}) == (pid,)
        assert ownership.strangers(local(port), {os.getpid(), pid}) == ()
        assert ownership.holders(local(port)) == {pid}
        assert not ownership.nobody(local(port))


@pytest.mark.parametrize(("host", "v6_only"), [("127.0.0.2", False), ("::1", False), ("::", True)])
def test_who_listens_on_another_address_of_the_same_port_is_no_concern(host: str, v6_only: bool) -> None:
    with listener(host, v6_only=v6_only) as (_, port):
        assert ownership.strangers(local(port), {os.getpid()}) == ()
        assert ownership.nobody(local(port))


@pytest.mark.parametrize("host", ["::1", "::"])
def test_an_ipv6_endpoint_is_checked_the_same_way(host: str) -> None:
    with listener(host, v6_only=True) as (pid, port):
        assert ownership.strangers(local(port, "::1"), set()) == (pid,)


def test_a_stranger_who_shares_the_port_with_us_is_found() -> None:
    with listener("127.0.0.1", reuse=True) as (ours, port), listener("127.0.0.1", port, reuse=True) as (other, _):
        assert ownership.strangers(local(port), {ours}) == (other,)


def test_a_stranger_behind_our_exact_address_is_found_on_the_wildcard() -> None:
    with listener("127.0.0.1", reuse=True) as (ours, port), listener("0.0.0.0", port, reuse=True) as (other, _):
        assert ownership.strangers(local(port), {ours}) == (other,)


def test_a_unix_socket_is_found_by_path_also_after_a_rename(tmp_path: Path) -> None:
    with listener(str(tmp_path / "a.sock")) as (pid, _):
        assert ownership.strangers(Address(path=str(tmp_path / "a.sock")), set()) == (pid,)
        (tmp_path / "a.sock").rename(tmp_path / "b.sock")
        assert ownership.strangers(Address(path=str(tmp_path / "b.sock")), set()) == (pid,)
        assert ownership.nobody(Address(path=str(tmp_path / "c.sock")))


def test_where_a_process_listens_is_listed(tmp_path: Path) -> None:
    with listener("0.0.0.0") as (one, port), listener(str(tmp_path / "a.sock")) as (two, _):
        assert ownership.listens_on({one, two}) == (local(port, "0.0.0.0"), Address(path=str(tmp_path / "a.sock")))
    assert ownership.listens_on({one, two}) == ()


def test_a_stranger_is_named_with_its_command() -> None:
    with listener("127.0.0.1") as (pid, _):
        assert ownership.describe(pid).startswith(f"pid {pid} ({sys.executable} -c")
        assert ownership.describe(pid).endswith("…)")
    assert ownership.describe(None) == "a process that this user may not look into"


def test_a_member_that_may_not_be_looked_into_is_given_its_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a program with file capabilities is to an ordinary user."""
    with listener("127.0.0.1") as (pid, port):
        monkeypatch.setattr("proxy.kernel.procfs.socket_inodes", lambda _: None)
        assert ownership.strangers(local(port), {pid}) == ()
        assert ownership.strangers(local(port), set()) == (None,)
