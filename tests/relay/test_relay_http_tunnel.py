"""Connections that are not HTTP/1, or cease to be, are passed through: every byte, FIN as FIN, RST as RST."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from proxy import wire
from tests.relay.harness import (
    GET,
    HttpService,
    WorkerProcess,
    answer,
    eventually,
    exchange,
    read,
    read_head,
    read_response,
    read_to_end,
    request,
    reset,
    response,
    was_reset,
)

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20

FOREIGN = {
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "TLS": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(range(256)),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "Redis": b"*1\r\n$4\r\nPING\r\n",
    "PROXY protocol": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
    "a binary protocol": b"\0\0\0\x10\0\0\0\0\0\0\0\0\0\0\0\0",
}
FOREIGN_EACH = pytest.mark.parametrize("opening", FOREIGN.values(), ids=FOREIGN)

UPGRADE = request("GET", "/chat", "Connection: keep-alive, Upgrade", "Upgrade: websocket")
SWITCHING = response(101, "Connection: Upgrade", "Upgrade: websocket")
CONNECT = request("CONNECT", "example.org:443")
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
AGREED = {
    "an upgrade": (UPGRADE, SWITCHING),
    "an upgrade with a length": (UPGRADE, response(101, "Connection: Upgrade", "Upgrade: x", "Content-Length: 0")),
    "CONNECT": (CONNECT, ESTABLISHED),
    "CONNECT with a length": (CONNECT, response(200, "Content-Length: 5")),
}
AGREED_EACH = pytest.mark.parametrize(("asked", "agreed"), AGREED.values(), ids=AGREED)

Pair = tuple[socket.socket, socket.socket]


def is_tunnel(client: socket.socket, server: socket.socket) -> bool:
    """Whether bytes that are no HTTP pass both ways, unasked."""
    for sender, receiver in ((server, client), (client, server), (server, client)):
        sender.sendall(b"\0\xff\n" + GET[:9])
        assert read(receiver, 12) == b"\0\xff\n" + GET[:9]
    return True


@pytest.fixture(params=["foreign", "upgraded", "connected"])
def tunnel(request: pytest.FixtureRequest, web: HttpService) -> Callable[..., Pair]:
    """Makes a tunnel of each kind: a client, and the backend's end."""

    def make(**options: Any) -> Pair:
        if request.param == "foreign":
            return web.asked(FOREIGN["SSH"], **options)
        asked, agreed = (UPGRADE, SWITCHING) if request.param == "upgraded" else (CONNECT, ESTABLISHED)
        client, server = web.asked(asked, **options)
        answer(client, server, agreed)
        return client, server

    return make


# Not HTTP/1 from the first byte


@FOREIGN_EACH
def test_what_is_not_http_1_passes(web: HttpService, opening: bytes) -> None:
    web.route()
    client, server = web.asked(opening)
    assert is_tunnel(client, server)
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(server) == b""
    answer(client, server, b"bye")
    server.close()
    assert read_to_end(client) == b""
    counts = web.control.counts("web").generations[1]
    assert counts.requests == {}
    assert counts.received_client == counts.sent_backend == len(opening) + 12
    assert counts.received_backend == counts.sent_client == 2 * 12 + 3


@FOREIGN_EACH
def test_what_is_not_http_1_passes_in_single_bytes(web: HttpService, opening: bytes) -> None:
    web.route()
    client = web.client()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for place in range(len(opening)):
        client.sendall(opening[place : place + 1])
    server = web.keep(web.backend.accept())
    assert read(server, len(opening)) == opening
    assert is_tunnel(client, server)


def test_what_is_not_http_1_may_be_long(web: HttpService) -> None:
    web.route()
    client = web.client()
    data = FOREIGN["TLS"] + os.urandom(4 * MIB)
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    server = web.keep(web.backend.accept())
    assert read(server, len(data)) == data
    sender.join()


def test_a_foreign_client_that_ends_at_once_is_heard(web: HttpService) -> None:
    web.route()
    client = web.client()
    web.worker.freeze()
    client.sendall(FOREIGN["Redis"])
    client.shutdown(socket.SHUT_WR)
    web.worker.thaw()
    server = web.keep(web.backend.accept())
    assert read_to_end(server) == FOREIGN["Redis"]
    server.sendall(b"+PONG\r\n")
    server.close()
    assert read_to_end(client) == b"+PONG\r\n"


def test_a_foreign_client_that_is_held_goes_to_the_new_version(web: HttpService) -> None:
    web.route(1, held=True)
    client = web.seeking(FOREIGN["TLS"])
    client.sendall(b"more")
    new = web.listener()
    web.route(2, new)
    server = web.keep(new.accept())
    assert read(server, len(FOREIGN["TLS"]) + 4) == FOREIGN["TLS"] + b"more"
    assert is_tunnel(client, server)


def test_a_foreign_client_that_finds_no_backend_is_reset(web: HttpService) -> None:
    """Nobody knows what to tell it."""
    web.route_nowhere(1, connect_timeout=0.02)
    client = web.client()
    client.sendall(FOREIGN["SSH"])
    assert was_reset(client)
    assert web.control.counts("web").refused == {"no_backend": 1}


def test_a_foreign_client_that_leaves_while_it_is_held_is_forgotten(web: HttpService) -> None:
    web.route(held=True)
    reset(web.seeking(FOREIGN["SSH"]))
    web.control.counts_when("web", lambda counts: not counts.waiting)


def test_what_comes_behind_a_request_is_never_a_tunnel(web: HttpService) -> None:
    """A backend must not see what was not understood."""
    web.route()
    client, server = web.pair()
    client.sendall(FOREIGN["TLS"] + b"\r\n\r\n")
    assert read_response(client).status == 400
    assert read_to_end(server) == b""


# Agreed on


@AGREED_EACH
def test_what_was_agreed_on_passes(web: HttpService, asked: bytes, agreed: bytes) -> None:
    web.route()
    client, server = web.pair()
    exchange(client, server, asked, agreed)
    assert is_tunnel(client, server)
    reset(server)
    assert was_reset(client)
    status = agreed.split()[1].decode()
    counts = web.control.counts_when("web", lambda counts: not counts.generations[1].active).generations[1]
    assert counts.requests == ({"200": 1, "101": 1} if status == "101" else {"200": 2})
    assert counts.in_flight == 0


@AGREED_EACH
def test_an_agreement_in_single_bytes_is_understood(web: HttpService, asked: bytes, agreed: bytes) -> None:
    web.route()
    client, server = web.client(), None
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for place in range(len(asked)):
        client.sendall(asked[place : place + 1])
    server = web.keep(web.backend.accept())
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert read(server, len(asked)) == asked
    for place in range(len(agreed)):
        server.sendall(agreed[place : place + 1])
    assert read(client, len(agreed)) == agreed
    assert is_tunnel(client, server)


@AGREED_EACH
def test_what_is_said_before_the_agreement_has_arrived_is_not_lost(
    web: HttpService, asked: bytes, agreed: bytes
) -> None:
    """The client speaks ahead, and the backend with its agreement: some clients do, of what they know to come."""
    web.route()
    early = os.urandom(3000)
    client = web.client()
    client.sendall(asked + early)
    server = web.keep(web.backend.accept())
    assert read(server, len(asked)) == asked
    client.sendall(early)
    assert web.is_silent(server), "not before the backend has agreed"
    server.sendall(agreed + early)
    assert read(client, len(agreed) + len(early)) == agreed + early
    assert read(server, 2 * len(early)) == early + early
    assert is_tunnel(client, server)
    counts = web.control.counts("web").generations[1]
    assert counts.received_client == counts.sent_backend == len(asked) + 2 * len(early) + 12
    assert counts.received_backend == counts.sent_client == len(agreed) + len(early) + 24


@AGREED_EACH
def test_much_is_said_both_ways_at_the_moment_of_the_agreement(web: HttpService, asked: bytes, agreed: bytes) -> None:
    """More than the sockets take: it is pending on both sides when the tunnel begins."""
    web.route()
    client, server = web.asked(asked, receive_buffer=4096)
    up, down = os.urandom(4 * MIB), os.urandom(4 * MIB)
    senders = [
        threading.Thread(target=client.sendall, args=(up,)),
        threading.Thread(target=server.sendall, args=(agreed + down,)),
    ]
    for sender in senders:
        sender.start()
    assert read(client, len(agreed)) == agreed
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(read(server, len(up))))
    reader.start()
    assert read(client, len(down)) == down
    for thread in (*senders, reader):
        thread.join()
    assert got == [up]
    assert is_tunnel(client, server)


def test_hints_before_an_agreement_are_passed_on(web: HttpService) -> None:
    web.route()
    client, server = web.asked(UPGRADE)
    answer(client, server, response(103) + SWITCHING + b"hello")
    assert is_tunnel(client, server)


def test_an_upgrade_with_a_body_passes(web: HttpService) -> None:
    """h2c: the request is the tunnel's first, and may have a body (RFC 9110, 7.8)."""
    web.route()
    text = request("POST", "/", "Connection: Upgrade", "Upgrade: h2c", body="body")
    client, server = web.asked(text)
    answer(client, server, SWITCHING)
    assert is_tunnel(client, server)


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        (UPGRADE, response(200, body="no websocket here")),
        (UPGRADE, response(426, "Connection: Upgrade", "Upgrade: h2c", body="not that")),
        (CONNECT, response(405, body="no proxy here")),
        (CONNECT, response(407, "Proxy-Authenticate: Basic")),
    ],
    ids=["ignored", "another protocol", "no method of this server", "not without a password"],
)
def test_what_is_refused_remains_http(web: HttpService, asked: bytes, refused: bytes) -> None:
    web.route()
    client, server = web.asked(asked)
    answer(client, server, refused)
    exchange(client, server)
    assert web.control.counts("web").generations[1].connections == 1


def test_a_client_that_gives_up_before_the_agreement_is_seen(web: HttpService) -> None:
    web.route()
    for asked in (UPGRADE, CONNECT):
        client, server = web.asked(asked)
        reset(client)
        assert was_reset(server)


def test_who_the_client_is_is_said_of_an_upgrade_too(web: HttpService) -> None:
    web.route(http=wire.Http())
    client = web.client()
    client.sendall(UPGRADE)
    server = web.keep(web.backend.accept())
    assert b"X-Forwarded-For: 127.0.0.1\r\n" in read_head(server)
    answer(client, server, SWITCHING)
    assert is_tunnel(client, server)


# As tunnels are


def test_a_tunnel_ends_one_way_and_then_the_other(web: HttpService, tunnel: Callable[..., Pair]) -> None:
    web.route()
    for first in (0, 1):
        pair = tunnel()
        ending, other = pair[first], pair[1 - first]
        ending.sendall(b"last")
        ending.shutdown(socket.SHUT_WR)
        assert read_to_end(other) == b"last"
        other.sendall(b"and")
        assert read(ending, 3) == b"and"
        other.close()
        assert read_to_end(ending) == b""
    web.control.counts_when("web", lambda counts: not counts.generations[1].active)


def test_a_tunnel_that_is_reset_is_reset(web: HttpService, tunnel: Callable[..., Pair]) -> None:
    web.route()
    for first in (0, 1):
        pair = tunnel()
        reset(pair[first])
        assert was_reset(pair[1 - first])


def test_a_tunnel_stays_with_its_version_until_the_deadline(web: HttpService, tunnel: Callable[..., Pair]) -> None:
    web.route(1)
    pair, other = tunnel(), tunnel()
    assert web.route(2, web.listener()) == {1: 2, 2: 0}
    assert is_tunnel(*pair)
    for sock in other:
        sock.close()
    web.control.counts_when("web", lambda counts: counts.generations[1].active == 1)
    assert web.control.ask(wire.Close, "web", 1).forced == 1
    assert was_reset(pair[0])
    assert was_reset(pair[1])
    counts = web.control.counts("web")
    assert counts.migrated == 0
    assert counts.generations[1].active == 0


def test_a_tunnel_is_not_in_flight(web: HttpService, tunnel: Callable[..., Pair]) -> None:
    web.route()
    tunnel()
    counts = web.control.counts("web").generations[1]
    assert (counts.active, counts.in_flight) == (1, 0)


def test_a_tunnel_goes_on_when_the_service_ends(web: HttpService, tunnel: Callable[..., Pair]) -> None:
    web.route()
    pair = tunnel()
    web.end()
    assert is_tunnel(*pair)


def test_a_tunnel_on_which_nothing_moves_is_closed(web: HttpService, tunnel: Callable[..., Pair]) -> None:
    web.route()
    pair = tunnel()
    web.route(idle_timeout=0.2)
    for sock in pair:
        assert read_to_end(sock) == b""


def test_tunnels_leave_nothing_behind(web: HttpService, worker: WorkerProcess, tunnel: Callable[..., Pair]) -> None:
    web.route()
    before = worker.descriptors()
    for _ in range(5):
        for sock in tunnel():
            sock.close()
    web.control.counts_when("web", lambda counts: not counts.generations[1].active)
    eventually(lambda: worker.descriptors() <= before or None)


def test_the_end_that_comes_with_an_agreement_is_passed_on(web: HttpService) -> None:
    web.route()
    client, server = web.asked(UPGRADE)
    server.sendall(SWITCHING + b"bye")
    server.close()
    assert read_to_end(client) == SWITCHING + b"bye"


def test_the_end_that_came_before_the_agreement_is_passed_on(web: HttpService) -> None:
    web.route()
    client, server = web.asked(CONNECT)
    client.sendall(b"all I have to say")
    client.shutdown(socket.SHUT_WR)
    answer(client, server, ESTABLISHED)
    assert read_to_end(server) == b"all I have to say"
    answer(client, server, b"heard")
    server.close()
    assert read_to_end(client) == b""


def test_a_tunnel_costs_nothing_while_nothing_moves(web: HttpService, worker: WorkerProcess) -> None:
    web.route()
    for text, told in ((FOREIGN["SSH"], b"hello"), (UPGRADE, SWITCHING), (CONNECT, ESTABLISHED)):
        client, server = web.asked(text)
        answer(client, server, told)
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(server) == b""
    assert worker.cpu_share(0.3) < 0.2
