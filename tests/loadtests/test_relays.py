"""Who the load tests measure: each is really brought up, carries all kinds of load, and is gone afterwards."""

from __future__ import annotations

import base64
import http.client
import os
import socket
import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from loadtests.backends import SMALL, backends
from loadtests.machine import listening, wait_until
from loadtests.relays import relays
from proxy.kernel.procfs import ProcessId, identify, is_running
from tests.tools import missing, need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loadtests.model import Backends, Relay, Running

ALL = relays()
PATIENCE = 20.0

each = partial(pytest.mark.parametrize, "relay", ids=lambda relay: relay.name)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backends]:
    need("nginx", package="nginx-light")
    with backends(tmp_path_factory.mktemp("backends")) as ports:
        yield ports


@contextmanager
def started(relay: Relay, folder: Path, servers: Backends) -> Iterator[Running]:
    """The relay; when it has ended, fail if one of its processes has not, or a port is still taken."""
    if relay.missing:
        missing(relay.missing)
    with relay.start(folder, servers) as running:
        seen = identities(running)
        yield running
        seen |= identities(running)
    assert not [identity for identity in seen if is_running(identity)]
    if seen:
        wait_until(lambda: not listening(running.ports.values()), f"{relay.name} has ended, and its ports are taken")


def identities(running: Running) -> set[ProcessId]:
    return {identity for identity in map(identify, running.pids()) if identity}


def fetch(port: int, path: str = "/small") -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 200
        return response.read()
    finally:
        connection.close()


def frame(payload: bytes, mask: bytes = b"") -> bytes:
    """A short binary frame of a websocket (RFC 6455, section 5.2); clients mask theirs."""
    masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload)) if mask else payload
    return bytes((0x82, len(payload) | (0x80 if mask else 0))) + mask + masked


def received(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        data += (more := connection.recv(4096))
        assert more, f"closed after {data!r}"
    return data


@each(argvalues=[relay for relay in ALL if relay.workers == 1])
def test_every_relay_carries_requests_bulk_and_websockets(relay: Relay, tmp_path: Path, servers: Backends) -> None:
    with started(relay, tmp_path, servers) as running:
        assert fetch(running.ports[servers.web]) == SMALL
        assert len(fetch(running.ports[servers.bulk], "/bytes/1000000")) == 1_000_000
        with socket.create_connection(("127.0.0.1", running.ports[servers.echo]), PATIENCE) as connection:
            key = base64.b64encode(os.urandom(16)).decode()
            connection.sendall(
                f"GET / HTTP/1.1\r\nHost: echo\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
            )
            assert received(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
            for payload in (b"one", b"another"):
                connection.sendall(frame(payload, mask=b"mask"))
                assert received(connection, payload) == frame(payload)


@each(argvalues=[relay for relay in ALL if relay.workers == 1 and relay.product not in {"direct", "naive"}])
def test_a_relay_keeps_its_port_while_what_serves_is_replaced(relay: Relay, tmp_path: Path, servers: Backends) -> None:
    with started(relay, tmp_path, servers) as running:
        port, before = running.ports[servers.web], running.pids()
        assert running.swap
        with asked_all_the_time(port):
            for _ in range(2):
                running.swap()
        assert fetch(port) == SMALL
        if relay.product != "proxyctl":  # whose workers stay
            assert running.pids() - before


@contextmanager
def asked_all_the_time(port: int) -> Iterator[None]:
    """One new connection after the other; fail if one of them is not served, in the time of the block."""
    failures: list[Exception] = []
    count, is_over = 0, threading.Event()

    def ask() -> None:
        nonlocal count
        while not is_over.is_set():
            try:
                assert fetch(port) == SMALL
            except (OSError, http.client.HTTPException, AssertionError) as error:
                failures.append(error)
            count += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
    assert count
    assert not failures


@each(argvalues=[relay for relay in ALL if relay.workers == 2])
def test_a_relay_with_two_workers_has_both_among_the_processes_that_are_measured(
    relay: Relay, tmp_path: Path, servers: Backends
) -> None:
    with started(relay, tmp_path, servers) as running:
        assert relay.version()
        assert fetch(running.ports[servers.web]) == SMALL
        assert running.workers() <= running.pids()
        if relay.product in {"proxyctl", "nginx"}:  # the others have threads
            assert len(running.workers()) == relay.workers


def test_no_two_relays_have_one_name() -> None:
    assert len({relay.name for relay in ALL}) == len(ALL)
