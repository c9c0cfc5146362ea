"""The websocket echo behind every relay speaks RFC 6455 with any client, however its bytes arrive."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK
from websockets.sync.client import connect

from loadtests.machine import ROOT, free_port
from loadtests.scenarios.exchange import AnswerError, Websocket, read_answer
from loadtests.scenarios.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FINAL,
    LONGEST,
    PING,
    PONG,
    TEXT,
    accept_key,
    client_frame,
    server_frame,
    take,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

HANDSHAKE = (
    b"GET /echo HTTP/1.1\r\nHost: localhost\r\nupgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    found = free_port()
    command = [sys.executable, "-m", "loadtests.scenarios.echo_server", str(found)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stdout
        assert server.stdout.readline() == "ready\n"
        yield found
        server.terminate()


@pytest.fixture
def raw(port: int) -> Iterator[socket.socket]:
    with opened(port) as connection:
        yield connection


def opened(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), 20)
    connection.sendall(HANDSHAKE)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head  # section 1.3
    return connection


def received(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := connection.recv(1 << 20)):
        data += more
    return data


def expect(connection: socket.socket, expected: bytes) -> None:
    assert received(connection, len(expected)) == expected


def closed_with(connection: socket.socket, status: int) -> None:
    expect(connection, server_frame(FINAL | CLOSE, status.to_bytes(2, "big")))
    assert connection.recv(1) == b""


def test_the_rfc_s_examples_are_understood_and_made() -> None:
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # section 1.3
    masked = bytes.fromhex("818537fa213d7f9f4d5158")  # section 5.7
    assert client_frame(FINAL | TEXT, b"Hello", bytes.fromhex("37fa213d")) == masked
    assert take(b"xx" + masked, 2) == (FINAL | TEXT, b"Hello", len(masked))
    assert server_frame(FINAL | TEXT, b"Hello") == bytes.fromhex("810548656c6c6f")


def test_a_websocket_library_gets_its_messages_back(port: int) -> None:
    with connect(f"ws://127.0.0.1:{port}/echo", compression=None) as client:
        for message in ("", "ä" * 100, b"\0" * 125, b"x" * 126, b"y" * 65535, b"z" * 65536, b"w" * (LONGEST - 1)):
            client.send(message)
            assert client.recv(20) == message
        client.send(["in ", "three ", "pieces"])
        assert client.recv(20) == "in three pieces"
        assert client.ping().wait(20)
        client.close(1000, "enough")
        with pytest.raises(ConnectionClosedOK):
            client.recv(20)


def test_a_message_that_is_too_long_ends_the_connection_with_the_reason(port: int) -> None:
    with connect(f"ws://127.0.0.1:{port}/echo", compression=None) as client:
        client.send(b"x" * (LONGEST + 1))
        with pytest.raises(ConnectionClosedError, match="1009"):
            client.recv(20)


def test_the_load_test_s_own_client_takes_it_for_an_echo(port: int) -> None:
    exchange = Websocket(64)
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        exchange.begin(connection)
        for _ in range(3):
            connection.sendall(exchange.request)
            read_answer(exchange, connection)
        connection.sendall(client_frame(FINAL | BINARY, b"x" * 64))
        with pytest.raises(AnswerError):
            read_answer(exchange, connection)


def test_fragments_come_back_as_fragments_with_a_ping_answered_between_them(raw: socket.socket) -> None:
    pieces = [(TEXT, b"one "), (FINAL | PING, b"here?"), (CONTINUATION, b"mess"), (FINAL | CONTINUATION, b"age")]
    for first, payload in pieces:
        raw.sendall(client_frame(first, payload))
    pieces[1] = (FINAL | PONG, b"here?")
    expect(raw, b"".join(server_frame(first, payload) for first, payload in pieces))


def test_frames_that_arrive_byte_by_byte_are_whole_in_the_end(raw: socket.socket) -> None:
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for size in (0, 3, 64, 130):
        for byte in client_frame(FINAL | BINARY, b"b" * size):
            raw.sendall(bytes((byte,)))
        expect(raw, server_frame(FINAL | BINARY, b"b" * size))


def test_many_frames_in_one_go_and_the_beginning_of_another(raw: socket.socket) -> None:
    frames = [(FINAL | TEXT, b"%d" % number) for number in range(2000)]
    data = b"".join(client_frame(first, payload) for first, payload in frames)
    raw.sendall(data[:-3])
    expect(raw, b"".join(server_frame(first, payload) for first, payload in frames[:-1]))
    raw.sendall(data[-3:])
    expect(raw, server_frame(*frames[-1]))


def test_a_message_right_behind_the_handshake_is_answered_too(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(HANDSHAKE[:50])
        connection.sendall(HANDSHAKE[50:] + client_frame(FINAL | TEXT, b"early"))
        expected = server_frame(FINAL | TEXT, b"early")
        head = b""
        while not head.endswith(b"\r\n\r\n" + expected):
            head += (more := connection.recv(4096))
            assert more, head


def test_a_pong_that_nobody_asked_for_is_not_echoed(raw: socket.socket) -> None:
    raw.sendall(client_frame(FINAL | PONG, b"") + client_frame(FINAL | TEXT, b"next"))
    expect(raw, server_frame(FINAL | TEXT, b"next"))


def test_a_close_is_sent_back_and_the_connection_closed(raw: socket.socket) -> None:
    raw.sendall(client_frame(FINAL | CLOSE, (1000).to_bytes(2, "big")) + client_frame(FINAL | TEXT, b"too late"))
    closed_with(raw, 1000)


@pytest.mark.parametrize(
    "frame",
    [
        server_frame(FINAL | TEXT, b"not masked"),
        client_frame(FINAL | 0x40 | TEXT, b"a bit of an extension"),
        client_frame(PING, b"a control frame in pieces"),
        client_frame(FINAL | PING, b"x" * 126),
    ],
    ids=["not-masked", "extension", "control-in-pieces", "long-control"],
)
def test_what_no_client_may_send_ends_the_connection(raw: socket.socket, frame: bytes) -> None:
    raw.sendall(frame)
    closed_with(raw, 1002)


def test_what_is_no_websocket_is_told_so(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(b"GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert received(connection, 1 << 20).startswith(b"HTTP/1.1 426 ")


def test_a_client_that_does_not_read_waits_alone_and_loses_nothing(raw: socket.socket, port: int) -> None:
    raw.setblocking(False)
    frame = client_frame(FINAL | BINARY, b"s" * 60000)
    sent = 0
    while True:
        try:
            sent += raw.send(frame[sent % len(frame) :])
        except BlockingIOError:
            with opened(port) as other:  # which is served, and by then the server has read what it will
                other.sendall(client_frame(FINAL | TEXT, b"me?"))
                expect(other, server_frame(FINAL | TEXT, b"me?"))
            try:
                sent += raw.send(frame[sent % len(frame) :])
            except BlockingIOError:
                break
    raw.settimeout(20)
    whole = server_frame(FINAL | BINARY, b"s" * 60000) * (sent // len(frame))
    expect(raw, whole)


def test_clients_that_vanish_do_not_end_the_server(port: int) -> None:
    for linger in (b"", b"\1\0\0\0\0\0\0\0"):
        connection = opened(port)
        if linger:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)  # close is a reset then
        connection.sendall(client_frame(FINAL | TEXT, b"half a frame")[:-3])
        connection.close()
    with opened(port) as other:
        other.sendall(client_frame(FINAL | TEXT, b"still there?"))
        expect(other, server_frame(FINAL | TEXT, b"still there?"))
