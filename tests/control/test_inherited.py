"""A listener that is handed on has to find its owner: bound again it is refused, left lying it swallows clients."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from proxy.control import activation, inherited, packed
from proxy.control.activation import ActivationError
from proxy.control.inherited import Inherited
from proxy.core.address import Address

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOOPBACK = Address("127.0.0.1", 0)


def listener(host: str = "127.0.0.1", port: int = 0, *, both: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
    sock.bind((host, port))
    sock.listen()
    return sock


def unix_listener(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


def inode(sock: socket.socket | None) -> int:
    assert sock is not None
    return os.fstat(sock.fileno()).st_ino


class Given:
    """What a service manager does: puts sockets where its child looks for them, and says so in its environment."""

    FIRST = 200

    def __init__(self) -> None:
        self.environ = {"LISTEN_PID": str(os.getpid()), "PATH": "/bin"}
        self.count = 0
        self._names: list[str] = []
        self._stack = ExitStack()

    def give(self, sock: socket.socket, name: str | None = None) -> socket.socket:
        """Hand over a copy; the original stays with the manager, as it does with systemd."""
        self._stack.enter_context(sock)
        descriptor = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, self.FIRST + self.count)
        assert descriptor == self.FIRST + self.count
        self.count += 1
        self.environ["LISTEN_FDS"] = str(self.count)
        if name is not None:
            self._names.append(name)
            self.environ["LISTEN_FDNAMES"] = ":".join(self._names)
        return sock

    def close(self) -> None:
        self._stack.close()
        for descriptor in range(self.FIRST, self.FIRST + self.count):
            with suppress(OSError):
                os.close(descriptor)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Iterator[Given]:
    monkeypatch.setattr(activation, "FIRST", Given.FIRST)
    given = Given()
    yield given
    given.close()


def test_a_listener_goes_to_the_service_it_is_named_for_and_is_ready_to_use(given: Given) -> None:
    api, web = given.give(listener(), "api"), given.give(listener(), "web")
    found = inherited.from_environment(given.environ)
    assert given.environ == {"PATH": "/bin"}
    with found.take("web", Address("127.0.0.1", port_of(web))) as taken:
        assert inode(taken) == inode(web)
        assert not taken.get_inheritable()
        assert not taken.getblocking()
        assert not os.get_blocking(taken.fileno())
        assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert taken.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
    assert found.unused() == [f"127.0.0.1:{port_of(api)} (api, from the service manager)"]
    found.close()
    assert found.unused() == []


def test_the_right_name_at_another_address_is_not_taken(given: Given) -> None:
    web = given.give(listener(), "web")
    found = inherited.from_environment(given.environ)
    assert found.take("web", Address("127.0.0.1", port_of(web) ^ 1)) is None
    assert found.take("web", Address("0.0.0.0", port_of(web))) is None
    assert found.take("api", Address("127.0.0.1", port_of(web))) is None
    assert len(found.unused()) == 1
    found.close()


@pytest.mark.parametrize("name", [None, "unknown", "", "proxyctl.socket"])
def test_a_listener_without_a_name_goes_by_its_address(given: Given, name: str | None) -> None:
    web = given.give(listener(), name)
    found = inherited.from_environment(given.environ)
    with found.take("web", Address("127.0.0.1", port_of(web))) as taken:
        assert inode(taken) == inode(web)
    assert found.take("web", Address("127.0.0.1", port_of(web))) is None, "it is handed out once"
    assert not found.unused()


def test_port_0_is_content_with_any_port_of_that_host(given: Given) -> None:
    web = given.give(listener(), "web")
    found = inherited.from_environment(given.environ)
    assert found.take("web", Address("0.0.0.0", 0)) is None
    with found.take("web", LOOPBACK) as taken:
        assert inode(taken) == inode(web)


def test_what_takes_both_families_serves_both_addresses(given: Given) -> None:
    """ListenStream=80 in a socket unit, against `listen = ["0.0.0.0:80", "[::]:80"]`."""
    both = given.give(listener("::", both=True), "web")
    for order in (["0.0.0.0", "::"], ["::", "0.0.0.0"]):
        found = Inherited()
        found.add("web", "", both.dup())
        first, second = (found.take("web", Address(host, port_of(both))) for host in order)
        with first, second:
            assert inode(first) == inode(second) == inode(both)
            assert first.fileno() != second.fileno()
        assert not found.unused()


def test_what_is_bound_to_the_very_address_goes_before_what_takes_both_families() -> None:
    with listener("::", both=True) as both, listener("0.0.0.0") as v4:
        found = Inherited()
        found.add("", "", both.dup())
        found.add("", "", v4.dup())
        with found.take("web", Address("0.0.0.0", 0)) as first, found.take("web", Address("::", 0)) as second:
            assert (inode(first), inode(second)) == (inode(v4), inode(both))


def test_what_takes_ipv6_alone_is_nothing_for_ipv4() -> None:
    with listener("::") as v6:
        found = Inherited()
        found.add("web", "", v6.dup())
        assert found.take("web", Address("0.0.0.0", port_of(v6))) is None
        with found.take("web", Address("::", port_of(v6))) as taken:
            assert inode(taken) == inode(v6)


def test_a_unix_socket_goes_by_its_path_and_its_file_stays_the_managers(given: Given, tmp_path: Path) -> None:
    given.give(unix_listener(tmp_path / "web"), "web")
    found = inherited.from_environment(given.environ)
    address = Address(path=str(tmp_path / "web"))
    assert found.take("web", Address(path=str(tmp_path / "other"))) is None
    found.take("web", address).close()
    assert found.activated == {str(address)}


def test_what_is_no_listener_is_refused_by_number_and_name(given: Given) -> None:
    with listener() as web, socket.create_connection(web.getsockname()) as client:
        given.give(listener(), "fine")
        given.give(client.dup(), "web")
        with pytest.raises(ActivationError, match=r'descriptor 201 \("web"\).*nobody listens') as caught:
            inherited.from_environment(given.environ)
    assert "Accept=no" in caught.value.hint


def test_a_datagram_socket_and_a_file_are_refused(given: Given, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        given.give(datagram, "dns")
        with pytest.raises(ActivationError, match="it is SOCK_DGRAM of AF_INET"):
            inherited.from_environment(dict(given.environ))
    given.environ["LISTEN_FDNAMES"] = "gone"
    with pytest.raises(ActivationError, match=r'descriptor 200 \("gone"\).*bad file descriptor'):
        inherited.from_environment(given.environ)


@pytest.mark.parametrize(
    ("changed", "said"), [({"LISTEN_FDS": "many"}, "not a number"), ({"LISTEN_FDNAMES": "a:b:c"}, "not have 1 names")]
)
def test_variables_that_make_no_sense_are_an_error(given: Given, changed: dict[str, str], said: str) -> None:
    given.give(listener(), "web")
    with pytest.raises(ActivationError, match=said):
        inherited.from_environment({**given.environ, **changed})


def test_what_is_meant_for_another_process_is_left_alone_and_kept_from_children(given: Given, caplog) -> None:
    web = given.give(listener(), "web")
    given.environ["LISTEN_PID"] = "1"
    found = inherited.from_environment(given.environ)
    assert given.environ == {"PATH": "/bin"}
    assert found.take("web", Address("127.0.0.1", port_of(web))) is None
    assert "for another process" in caplog.text
    os.fstat(Given.FIRST)


def test_nothing_inherited_is_nothing() -> None:
    found = inherited.from_environment({})
    assert (found.lock, found.control, found.activated, found.unused()) == (None, {}, set(), [])
    assert found.take("web", LOOPBACK) is None


# What workers give back.


def test_what_workers_have_open_is_taken_as_the_config_names_it() -> None:
    """Port 0 in the config was some port long ago; each worker has the same listeners."""
    with listener() as web, listener() as api:
        found = Inherited()
        for _ in range(4):
            found.add("web", "127.0.0.1:0", web.dup())
            found.add("api", "127.0.0.1:0", api.dup())
        with found.take("api", LOOPBACK) as taken:
            assert inode(taken) == inode(api)
        with found.take("web", LOOPBACK) as taken:
            assert inode(taken) == inode(web)
        assert not found.unused()


def test_a_listener_that_comes_from_workers_and_from_the_manager_is_one(given: Given, tmp_path: Path) -> None:
    web = given.give(unix_listener(tmp_path / "web"))
    found = inherited.from_environment(given.environ)
    address = Address(path=str(tmp_path / "web"))
    found.add("web", str(address), web.dup())
    found.take("web", address).close()
    assert not found.unused()
    assert str(address) in found.activated


def test_a_listener_nobody_is_configured_for_any_more_is_said_and_closed() -> None:
    found = Inherited()
    sock = listener()
    found.add("old", "127.0.0.1:0", sock)
    assert found.unused() == [f"127.0.0.1:{port_of(sock)} (old, left open by an earlier run)"]
    found.close()
    assert sock.fileno() == -1


# Over an exec.

_NEXT_IMAGE = """
import json, os
from pathlib import Path
from proxy.control import inherited
from proxy.core.address import Address
found = inherited.from_environment(os.environ)
web = found.take("web", Address("127.0.0.1", 0))
control = found.take_control("unix:/run/control.sock")
print(json.dumps({
    "web": web.getsockname()[1], "control": os.fstat(control.fileno()).st_ino, "lock": os.fstat(found.lock).st_ino,
    "activated": sorted(found.activated), "unused": found.unused(), "left": "PROXY_INHERITED" in os.environ,
    "inheritable": [os.get_inheritable(fd) for fd in (web.fileno(), control.fileno(), found.lock)],
}))
"""


def test_all_of_it_arrives_in_the_next_image(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    with listener() as web, unix_listener(tmp_path / "control") as control:
        variables = packed.pack(lock, {"unix:/run/control.sock": control}, {"web": {"127.0.0.1:0": web}}, {"unix:/x"})
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _NEXT_IMAGE],
            env={**os.environ, **variables}, close_fds=False, capture_output=True, text=True, check=True,
        )  # fmt: skip
        packed.withdraw(variables)
        assert not any(os.get_inheritable(each) for each in (lock, web.fileno(), control.fileno()))
        assert json.loads(done.stdout) == {
            "web": port_of(web),
            "control": inode(control),
            "lock": os.fstat(lock).st_ino,
            "activated": ["unix:/x"],
            "unused": [],
            "left": False,
            "inheritable": [False] * 3,
        }
    os.close(lock)


def test_a_listener_is_not_lost_for_another_that_is() -> None:
    sock = listener()
    number = port_of(sock)
    text = {"format": 1, "lock": 900, "listeners": {"web": {"127.0.0.1:0": sock.detach(), "127.0.0.1:1": 901}}}
    found = inherited.from_environment({packed.VARIABLE: json.dumps(text)})
    assert found.lock is None
    with found.take("web", LOOPBACK) as taken:
        assert port_of(taken) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": 1, "lock": "3"}',
        '{"format": 1, "lock": 99999999999999}',
        '{"format": 1, "listeners": {"web": 3}}',
        '{"format": 2, "lock": 1, "control": {"unix:/x": 0}, "listeners": {"web": {"127.0.0.1:0": true}}}',
        "\x00",
    ],
)
def test_what_is_garbled_is_logged_and_done_without(text: str, caplog) -> None:
    environ = {packed.VARIABLE: text}
    found = inherited.from_environment(environ)
    assert environ == {}
    assert (found.lock, found.control, found.unused()) == (None, {}, [])
    assert "earlier image" in caplog.text


@pytest.mark.parametrize(
    "shape", ['{"format": 99, "lock": null, "listeners": {"web": {"a": %d}}}', '{"format": 2, "places": [{"fd": %d}]}']
)
def test_descriptors_of_an_unknown_format_are_closed_where_they_can_be_told(shape: str) -> None:
    with listener() as sock:
        sock.set_inheritable(True)
        own = sock.dup()  # not inheritable, so that it was opened by this image
        copy = os.dup2(sock.fileno(), 210)
        inherited.from_environment({packed.VARIABLE: shape % copy})
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(copy)
        inherited.from_environment({packed.VARIABLE: shape % own.fileno()})
        own.close()
