"""How much is read at a time: more for a reader that keeps up, and never more than a buffer for one that does not."""

from __future__ import annotations

import _socket
import os
import socket
from typing import TYPE_CHECKING

import pytest

from proxy.relay.acceptor import Gate
from proxy.relay.connection import Connection
from proxy.relay.engine import BUFFER, LARGE, REGAIN, STREAK, Engine
from proxy.relay.generation import Endpoint
from proxy.relay.http.stream import Stream
from proxy.relay.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def relayed() -> Iterator[tuple[Engine, Connection, socket.socket, socket.socket]]:
    """A connection whose ends the test holds: the client's and the backend's."""
    engine = Engine()
    service = Service("web", engine, Gate(engine, 10), lambda *_: None)
    (client, ours), (theirs, backend) = socket.socketpair(), socket.socketpair()
    with client, ours, theirs, backend:
        sockets = [_socket.socket(fileno=os.dup(each.fileno())) for each in (ours, theirs)]
        generation = service.generation
        service.client_came()
        connection = Connection(service, generation, Endpoint("127.0.0.1:9"), sockets[0], sockets[1], 0.0)
        connection.start()
        yield engine, connection, client, backend
        if connection in generation.members:
            connection.abort()
        engine.sweep()


def test_only_a_long_row_of_full_reads_makes_them_longer() -> None:
    with socket.socket() as sock:
        stream = Stream(Engine(), sock)
        for _ in range(STREAK - 1):
            stream.filled()
        assert stream.limit == BUFFER
        stream.filled()
        assert stream.limit == LARGE


def test_a_reader_that_stops_is_kept_no_more_than_a_buffer_for_from_then_on() -> None:
    with socket.socket() as sock:
        stream = Stream(Engine(), sock)
        for _ in range(STREAK):
            stream.filled()
        stream.blocked()
        assert stream.limit == BUFFER
        for _ in range(REGAIN):
            stream.filled()
        assert stream.limit == LARGE  # it was an exception
        stream.blocked()
        stream.blocked()
        for _ in range(STREAK - 1):
            stream.filled()
        assert stream.limit == BUFFER  # it was none


def test_a_relayed_stream_falls_back_when_its_reader_stops(
    relayed: tuple[Engine, Connection, socket.socket, socket.socket],
) -> None:
    engine, connection, client, backend = relayed
    side = connection.client
    side.limit, side.streak = LARGE, STREAK
    client.setblocking(False)
    try:
        while True:  # until neither the relay nor the kernel takes any more
            client.send(b"x" * BUFFER)
            engine._pass()
    except BlockingIOError:
        pass
    assert not side.is_read
    assert 0 < len(connection.backend.pending) <= LARGE
    assert (side.limit, side.streak) == (BUFFER, STREAK - REGAIN)
    assert backend.recv(10) == b"x" * 10
