"""Real connections, in a network namespace of each test's own: no test sees or closes what belongs to the machine."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.kernel import inet_diag, inet_dump, netlink
from proxy.kernel.inet_diag import Connection, Tally
from proxy.kernel.inet_dump import State
from tests.isolation import network_namespace
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Iterator

OLD, NEW = 0x5A000001, 0x5A000002
RANGE = range(0x5A000000, 0x5A000100)
V4, V6 = "127.0.0.1", "::1"


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with network_namespace():
        yield


def listening(host: str = V4, port: int = 0, *, mark: int = OLD, backlog: int = 4096) -> socket.socket:
    """A listener; on `::`, for IPv4 as well."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if ":" in host:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind((host, port))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    listener.listen(backlog)
    return listener


def connected(listener: socket.socket, host: str = V4) -> tuple[socket.socket, socket.socket]:
    client = socket.create_connection((host, port_of(listener)))
    return client, listener.accept()[0]


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def in_handshake(listener: socket.socket, host: str = V4) -> socket.socket:
    """A client whose connection the listener's side does not take for established before it says something."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    return socket.create_connection((host, port_of(listener)))


def tally(mark: int = OLD) -> Tally:
    """What the cheap way counts; the dear one has to agree."""
    (*rest,) = (each for (found, _, _), each in inet_diag.count(marks=[mark]).items() if found == mark)
    counted = Tally(*map(sum, zip(*rest, strict=True))) if rest else Tally()
    each = inet_diag.connections(marks=[mark])
    waiting = sum(one.is_waiting for one in each)
    listed = Tally(sum(one.is_live for one in each) - waiting, waiting, sum(one.is_half_open for one in each))
    assert counted == listed
    return counted


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


@pytest.mark.parametrize("number", [0, 1, 100, 5000])
def test_as_many_connections_are_counted_as_the_backend_has(number: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with contextlib.ExitStack() as stack:
            old, new = stack.enter_context(listening()), stack.enter_context(listening(mark=NEW))
            for _ in range(number):
                for each in connected(old):
                    stack.enter_context(each)
            for each in connected(new):
                stack.enter_context(each)
            assert tally() == Tally(open=number)
            expected = {(OLD, V4, port_of(old)): Tally(number)} if number else {}
            assert inet_diag.count(marks=RANGE) == expected | {(NEW, V4, port_of(new)): Tally(1)}
            assert inet_diag.count(marks=RANGE, ports=[port_of(old), 1, 2]) == expected
        assert inet_diag.count(marks=RANGE) == {}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(("bound", "host"), [(V4, V4), ("0.0.0.0", V4), (V6, V6), ("::", V6), ("::", V4)])
def test_a_connection_has_plain_addresses_whatever_family_its_listener_is_of(bound: str, host: str) -> None:
    with listening(bound) as listener, contextlib.ExitStack() as stack:
        client, server = map(stack.enter_context, connected(listener, host))
        (found,) = inet_diag.connections(marks=[OLD])
        assert (found.local, found.remote) == ((host, port_of(listener)), client.getsockname()[:2])
        assert found.family == (socket.AF_INET6 if host == V6 else socket.AF_INET)
        assert (found.inode, found.mark, found.state) == (inode(server), OLD, State.ESTABLISHED)
        assert (found.is_live, found.is_waiting, found.is_half_open) == (True, False, False)
        assert inet_diag.count(marks=[OLD]) == {(OLD, host, port_of(listener)): Tally(1)}
        assert inet_diag.destroy([found]) == 1
        with pytest.raises(ConnectionResetError):
            client.recv(1)


@pytest.mark.parametrize(("bound", "host"), [(V4, V4), ("::", V4), ("::", V6)])
def test_what_waits_in_the_accept_queue_is_neither_lost_nor_taken_for_accepted(bound: str, host: str) -> None:
    with listening(bound) as listener, contextlib.ExitStack() as stack:
        first = stack.enter_context(socket.create_connection((host, port_of(listener))))
        stack.enter_context(socket.create_connection((host, port_of(listener))))
        assert tally() == Tally(waiting=2)
        first.close()  # it may have sent a request before that
        assert tally() == Tally(waiting=2)
        stack.enter_context(listener.accept()[0])
        assert tally() == Tally(open=1, waiting=1)


@pytest.mark.parametrize(("bound", "host"), [(V4, V4), ("::", V4), ("::", V6)])
def test_a_handshake_under_way_is_known_by_the_mark_of_its_listener(bound: str, host: str) -> None:
    with listening(bound) as listener, in_handshake(listener, host) as client:
        assert tally() == Tally(half_open=1)
        assert tally(NEW) == Tally()
        (found,) = inet_diag.connections(marks=[OLD])
        assert (found.local, found.is_live) == ((host, port_of(listener)), False)
        client.send(b"x")
        with listener.accept()[0]:
            assert tally() == Tally(open=1)


def test_a_handshake_can_be_given_up() -> None:
    with listening() as listener, in_handshake(listener):
        assert inet_diag.destroy(inet_diag.connections(marks=[OLD])) == 1
        assert tally() == Tally()


def test_a_flood_of_handshakes_that_come_to_nothing_is_told_from_connections() -> None:
    ip = need("ip", package="iproute2")
    subprocess.run([ip, "route", "add", "10.9.0.0/16", "dev", "lo"], check=True)  # nobody answers from there
    with (
        listening() as listener,
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
        contextlib.ExitStack() as stack,
    ):
        for number in range(1, 201):
            raw.sendto(syn(f"10.9.0.{number}", V4, port_of(listener)), (V4, 0))
        client, server = map(stack.enter_context, connected(listener))
        while tally() != Tally(open=1, half_open=200):
            os.sched_yield()
        assert inet_diag.destroy(each for each in inet_diag.connections(marks=[OLD]) if each.is_half_open) == 200
        assert tally() == Tally(open=1)
        client.send(b"?")
        assert server.recv(1) == b"?"


def syn(source: str, to: str, port: int) -> bytes:
    """The first packet of a handshake, with its IPv4 header."""
    ends = socket.inet_aton(source) + socket.inet_aton(to)
    segment = struct.pack("!HHIIBBHHH", 20000, port, 1, 0, 5 << 4, 2, 64240, 0, 0)
    words = struct.unpack("!16H", ends + struct.pack("!HH", socket.IPPROTO_TCP, len(segment)) + segment)
    total = sum(words)
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    header = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, socket.IPPROTO_TCP, 0)
    return header + ends + segment[:16] + struct.pack("!H", total) + segment[18:]


def test_a_connection_lives_until_its_owner_has_closed_it() -> None:
    with listening() as listener, contextlib.ExitStack() as stack:
        client, server = map(stack.enter_context, connected(listener))
        server.shutdown(socket.SHUT_WR)  # the owner may still read for as long as it likes
        assert tally() == Tally(open=1)
        client.send(b"still heard")
        server.close()
        assert tally() == Tally()


def test_a_client_that_has_said_all_it_has_to_say_still_waits_for_the_answer() -> None:
    with listening() as listener, contextlib.ExitStack() as stack:
        client, server = map(stack.enter_context, connected(listener))
        client.shutdown(socket.SHUT_WR)
        assert server.recv(1) == b""
        assert tally() == Tally(open=1)
        server.close()
        assert client.recv(1) == b""
        assert tally() == Tally()


def test_what_the_kernel_still_sends_for_an_owner_that_is_gone_is_no_live_connection() -> None:
    with listening() as listener, contextlib.ExitStack() as stack:
        client, server = map(stack.enter_context, connected(listener))
        server.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                server.send(bytes(1 << 16))
        server.close()
        (found,) = inet_diag.connections(marks=[OLD])
        assert (found.state, found.inode, found.is_live) == (State.FIN_WAIT1, 0, False)
        assert tally() == Tally()
        client.close()


def test_states_that_are_over_are_shown_to_those_who_ask_for_them() -> None:
    with listening() as listener, contextlib.ExitStack() as stack:
        client, server = map(stack.enter_context, connected(listener))
        server.close()
        assert client.recv(1) == b""
        client.close()
        port = [port_of(listener)]
        assert inet_diag.connections(ports=port) == []
        (over,) = inet_diag.connections(ports=port, states=1 << State.TIME_WAIT)
        assert (over.local, over.is_live) == ((V4, port_of(listener)), False)


def test_bytes_and_idle_time_are_those_of_the_connection() -> None:
    with listening() as listener, contextlib.ExitStack() as stack:
        client, server = map(stack.enter_context, connected(listener))
        client.send(b"x" * 1000)
        assert len(server.recv(1000, socket.MSG_WAITALL)) == 1000
        server.send(b"y" * 300)
        assert len(client.recv(300, socket.MSG_WAITALL)) == 300
        (found,) = inet_diag.connections(marks=[OLD], info=True)
        assert (found.received, found.sent) == (1000, 300)
        assert 0 <= found.idle < 5
        (found,) = inet_diag.connections(marks=[OLD])
        assert (found.received, found.sent, found.idle) == (0, 0, 0)


def test_the_other_end_of_a_connection_is_not_counted() -> None:
    with listening() as listener, contextlib.ExitStack() as stack:
        client, _ = map(stack.enter_context, connected(listener))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, OLD)
        assert inet_diag.count(marks=[OLD], ports=[port_of(listener)]) == {(OLD, V4, port_of(listener)): Tally(1)}


def test_no_mark_is_nobody_and_no_ports_are_all() -> None:
    with listening(mark=0) as listener, contextlib.ExitStack() as stack:
        client, _ = map(stack.enter_context, connected(listener))
        assert inet_diag.connections(marks=[]) == []
        assert inet_diag.count(marks=[]) == {}
        ports = {port_of(listener), port_of(client)}
        assert {each.local[1] for each in inet_diag.connections()} == ports
        assert {each.local[1] for each in inet_diag.connections(ports=ports)} == ports


def test_marks_between_those_asked_for_are_left_out() -> None:
    marks = [0x5A000001, 0x5A000010]  # what they have in common, 0x5a000011 has as well
    with contextlib.ExitStack() as stack:
        for mark in [*marks, 0x5A000011]:
            listener = stack.enter_context(listening(mark=mark))
            for each in connected(listener):
                stack.enter_context(each)
        assert {each.mark for each in inet_diag.connections(marks=marks)} == set(marks)
        assert {mark for mark, _, _ in inet_diag.count(marks=marks)} == set(marks)


def test_two_addresses_with_the_same_port_are_counted_apart() -> None:
    with listening("127.0.0.1") as one, listening("127.0.0.2", port_of(one)) as two, contextlib.ExitStack() as stack:
        for listener, host in [(one, "127.0.0.1"), (two, "127.0.0.2"), (two, "127.0.0.2")]:
            for each in connected(listener, host):
                stack.enter_context(each)
        port = port_of(one)
        assert inet_diag.count(marks=RANGE) == {(OLD, V4, port): Tally(1), (OLD, "127.0.0.2", port): Tally(2)}


def test_exactly_those_given_are_destroyed_and_a_bystander_notices_nothing() -> None:
    with contextlib.ExitStack() as stack:
        old, new = stack.enter_context(listening()), stack.enter_context(listening(mark=NEW))
        ours = [[stack.enter_context(each) for each in connected(old)] for _ in range(200)]
        bystanders = [[stack.enter_context(each) for each in connected(new)] for _ in range(20)]
        assert inet_diag.destroy(inet_diag.connections(marks=[OLD])) == 200
        assert tally() == Tally()
        assert tally(NEW) == Tally(open=20)
        for client, server in ours:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            with pytest.raises(ConnectionAbortedError):
                server.recv(1)
        for client, server in bystanders:
            client.send(b"?")
            assert server.recv(1) == b"?"
        for each in connected(old):  # the listener has lost nothing but its connections
            stack.enter_context(each)


def test_a_new_connection_with_the_addresses_of_an_old_one_is_not_destroyed_in_its_place() -> None:
    with listening() as listener, contextlib.ExitStack() as stack:
        client, server = map(stack.enter_context, connected(listener))
        address = client.getsockname()
        targets = inet_diag.connections(marks=[OLD])
        for each in (client, server):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            each.close()
        again = stack.enter_context(socket.socket())
        again.bind(address)
        again.connect(listener.getsockname())
        stack.enter_context(listener.accept()[0])
        (found,) = inet_diag.connections(marks=[OLD])
        assert (found.remote, found.cookie != targets[0].cookie) == (targets[0].remote, True)
        assert inet_diag.destroy(targets) == 0
        assert tally() == Tally(open=1)


def test_a_kernel_that_cannot_destroy_is_an_error_and_not_a_count_of_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "ask_each", lambda *_: [0, errno.ENOENT, errno.EOPNOTSUPP])
    with pytest.raises(OSError, match="not supported"):
        inet_diag.destroy([])


def test_without_the_capability_it_is_said_that_it_is_not_allowed() -> None:
    code = """
import ctypes, sys
from proxy.kernel import capabilities, inet_diag
(mine,) = inet_diag.connections(ports=[int(sys.argv[1])])
print(mine.mark, capabilities.has(capabilities.Capability.NET_ADMIN))
for ask in (lambda: inet_diag.count(marks=[1]), lambda: inet_diag.connections(marks=[1]),
            lambda: inet_diag.destroy([mine])):
    try:
        ask()
    except PermissionError as error:
        print(error.errno)
"""
    with listening() as listener, contextlib.ExitStack() as stack:
        for each in connected(listener):
            stack.enter_context(each)
        drop = [need("setpriv", package="util-linux"), "--bounding-set=-net_admin"]
        command = [*drop, sys.executable, "-c", code, str(port_of(listener))]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["0", "False", str(errno.EPERM), str(errno.EPERM), str(errno.EPERM)]


def test_messages_whose_attributes_differ_are_counted_all_the_same() -> None:
    """Two of one length, with the mark in different places."""
    with listening() as listener, contextlib.ExitStack() as stack:
        for each in connected(listener):
            stack.enter_context(each)
        (run,) = inet_dump.dump([OLD], (), inet_diag.LIVE, 0)
    fixed = bytes(run.data[:88])
    mark, other = netlink.attribute(15, struct.pack("=I", OLD)), netlink.attribute(99, b"abcd")
    mixed = fixed + mark + other + fixed + other + mark + fixed + mark + other
    rows = inet_diag._rows(run._replace(data=memoryview(mixed), length=104, stride=104))
    assert sorted(rows.values()) == [3]
    assert {row.mark for row, _ in rows} == {OLD}


@given(st.sets(st.integers(0, 0xFFFFFFFF), min_size=1, max_size=5), st.integers(0, 0xFFFFFFFF))
def test_the_kernel_never_leaves_out_a_mark_that_was_asked_for(marks: set[int], other: int) -> None:
    value, mask = inet_dump._common(marks)
    assert all(mark & mask == value for mark in marks)
    assert len(marks) > 1 or (other & mask == value) == (other in marks)


@pytest.mark.parametrize(
    ("state", "held", "lives"),
    [
        (State.ESTABLISHED, True, "open"),
        (State.CLOSE_WAIT, True, "open"),
        (State.FIN_WAIT1, True, "open"),
        (State.FIN_WAIT2, True, "open"),
        (State.ESTABLISHED, False, "waiting"),
        (State.CLOSE_WAIT, False, "waiting"),
        (State.SYN_RECV, False, "half_open"),
        (State.FIN_WAIT1, False, ""),
        (State.FIN_WAIT2, False, ""),
        (State.LAST_ACK, False, ""),
        (State.LAST_ACK, True, ""),
        (State.CLOSING, True, ""),
        (State.TIME_WAIT, False, ""),
    ],
)
def test_what_a_drain_waits_for(state: State, held: bool, lives: str) -> None:
    one = Connection(socket.AF_INET, state, (V4, 1), (V4, 2), int(held), 0, 0, b"")
    assert one.is_live == (lives in {"open", "waiting"})
    assert one.is_waiting == (lives == "waiting")
    assert one.is_half_open == (lives == "half_open")
