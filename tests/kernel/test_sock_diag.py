from __future__ import annotations

import errno
import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from proxy.kernel import netlink, proc_net, sock_diag
from proxy.kernel.proc_net import TcpListener

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def listening(family: socket.AddressFamily, address: Any, *, v6_only: bool = False) -> socket.socket:
    listener = socket.socket(family)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6_only)
    listener.bind(address)
    listener.listen()
    return listener


@pytest.fixture(params=["sock_diag", "proc"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs with netlink, and as on a machine that has none."""
    if request.param == "proc":

        def refuse(_: bytes) -> Iterator[bytes]:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

        monkeypatch.setattr(netlink, "dump", refuse)
    return str(request.param)


@pytest.mark.parametrize(
    ("family", "host"),
    [
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0"),
        (socket.AF_INET6, "::1"),
        (socket.AF_INET6, "::"),
        (socket.AF_INET6, "::ffff:127.0.0.1"),
    ],
)
def test_who_listens_on_a_port_is_found_with_address_inode_and_user(
    family: socket.AddressFamily, host: str, source: str
) -> None:
    with listening(family, (host, 0)) as listener:
        port = listener.getsockname()[1]
        (found,) = sock_diag.tcp_listeners(port)
        assert found in sock_diag.tcp_listeners()
        expected = TcpListener(host=host, port=port, inode=os.fstat(listener.fileno()).st_ino, uid=os.geteuid())
        assert replace(found, v6_only=False) == expected
    assert sock_diag.tcp_listeners(port) == []


def test_a_v6_wildcard_that_takes_no_v4_is_told_apart() -> None:
    with listening(socket.AF_INET6, ("::", 0), v6_only=True) as listener:
        (found,) = sock_diag.tcp_listeners(listener.getsockname()[1])
    assert found.v6_only


def test_every_member_of_a_reuseport_group_is_listed(source: str) -> None:
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            each.bind(("127.0.0.1", one.getsockname()[1]))
            each.listen()
        inodes = {os.fstat(each.fileno()).st_ino for each in (one, two)}
        assert {each.inode for each in sock_diag.tcp_listeners(one.getsockname()[1])} == inodes


def test_connections_and_bound_sockets_are_not_listeners(source: str) -> None:
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as listener, socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with socket.create_connection(listener.getsockname()) as client, listener.accept()[0]:
            assert sock_diag.tcp_listeners(client.getsockname()[1]) == []
            assert sock_diag.tcp_listeners(bound.getsockname()[1]) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_how_many_connections_wait_to_be_accepted_is_known(host: str, source: str) -> None:
    family = socket.AF_INET6 if host == "::1" else socket.AF_INET
    with socket.create_server((host, 0), family=family, backlog=7) as listener:
        port = listener.getsockname()[1]
        (idle,) = sock_diag.tcp_listeners(port)
        with socket.create_connection((host, port)), socket.create_connection((host, port)):
            (busy,) = sock_diag.tcp_listeners(port)
            assert (idle.waiting, busy.waiting) == (0, 2)
            assert busy.backlog == (7 if source == "sock_diag" else 0)  # /proc/net does not say
            assert busy == idle
            with listener.accept()[0], listener.accept()[0]:
                assert [each.waiting for each in sock_diag.tcp_listeners(port)] == [0]


def test_a_listening_unix_socket_is_found_by_its_path(tmp_path: Path, source: str) -> None:
    path = str(tmp_path / "a b.sock")
    with listening(socket.AF_UNIX, path) as listener:
        (found,) = (each for each in sock_diag.unix_listeners() if each.path == path)
        assert found.inode == os.fstat(listener.fileno()).st_ino
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            assert [each.inode for each in sock_diag.unix_listeners() if each.path == path] == [found.inode]


def test_a_unix_socket_that_was_renamed_is_found_by_its_file(tmp_path: Path) -> None:
    path = tmp_path / "new.sock"
    with listening(socket.AF_UNIX, str(tmp_path / "old.sock")):
        (tmp_path / "old.sock").rename(path)
        status = path.stat()
        found = [each for each in sock_diag.unix_listeners() if each.file == (status.st_dev, status.st_ino)]
    assert [each.path for each in found] == [str(tmp_path / "old.sock")]
    assert found[0].uid == os.geteuid()


def test_abstract_sockets_have_no_path_to_be_found_by(source: str) -> None:
    with listening(socket.AF_UNIX, b"\0proxyctl-test-" + os.urandom(4).hex().encode()) as listener:
        inode = os.fstat(listener.fileno()).st_ino
        assert inode not in {each.inode for each in sock_diag.unix_listeners()}


def test_errors_of_the_kernel_other_than_not_having_it_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: bytes) -> Iterator[bytes]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(netlink, "dump", fail)
    for ask in (sock_diag.tcp_listeners, sock_diag.unix_listeners):
        with pytest.raises(OSError, match="Too many open files"):
            ask()


def test_a_request_the_kernel_rejects_is_an_error_not_an_empty_list() -> None:
    with pytest.raises(OSError, match=r"Invalid argument|No such file"):
        list(netlink.dump(b"\xff" * 4))


def test_a_machine_without_ipv6_has_no_tcp6_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(proc_net, "_NET", tmp_path)
    assert proc_net.tcp_listeners(socket.AF_INET6) == []
