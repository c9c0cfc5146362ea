"""What the load tests' own clients say, and whether all of the answer is there: HTTP requests, websocket messages."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from loadtests.scenarios.frames import BINARY, FINAL, accept_key, client_frame, fields, new_key, server_frame

if TYPE_CHECKING:
    import socket


class AnswerError(Exception):
    """What came is not what was asked for."""


class Exchange(Protocol):
    """`request` is the same bytes each time; one is under way on a connection at a time."""

    request: bytes

    def begin(self, connection: socket.socket) -> None:
        """Do what comes first on a connection, which blocks. Raises AnswerError and OSError."""

    def is_answer(self, received: bytes) -> bool:
        """Whether all of the answer is there; False where more has to come. Raises AnswerError."""


class Http:
    """GET, on a connection that is kept. Any response with status 200 and a Content-Length will do (RFC 9112)."""

    def __init__(self, path: str = "/small") -> None:
        self.request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        self._last = b""

    def begin(self, connection: socket.socket) -> None:
        pass

    def is_answer(self, received: bytes) -> bool:
        # The same bytes again and again, but for the date, and for what a relay says of itself.
        if received == self._last:
            return True
        head, end, body = received.partition(b"\r\n\r\n")
        if not end:
            return False
        missing = _body_size(head) - len(body)
        if missing < 0:
            raise AnswerError(f"{-missing} bytes that nobody asked for")
        if not missing:
            self._last = received
        return not missing


class Websocket:
    """A binary message that the server echoes (RFC 6455), `size` bytes of it, in one masked frame."""

    def __init__(self, size: int = 64) -> None:
        payload = os.urandom(size)
        self.request = client_frame(FINAL | BINARY, payload)
        self._answer = server_frame(FINAL | BINARY, payload)

    def begin(self, connection: socket.socket) -> None:
        key = new_key()
        connection.sendall(
            "GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = fields(_read_head(connection))
        if " 101 " not in head[""] or head.get("sec-websocket-accept") != accept_key(key):
            raise AnswerError(f"no websocket: {head['']}")

    def is_answer(self, received: bytes) -> bool:
        if received == self._answer:
            return True
        if not self._answer.startswith(received):
            raise AnswerError("not an echo")
        return False


def read_answer(exchange: Exchange, connection: socket.socket) -> None:
    """Wait for all of one answer, on a connection that blocks. Raises AnswerError and OSError."""
    received = b""
    while not received or not exchange.is_answer(received):
        received += (more := connection.recv(1 << 16))
        if not more:
            raise AnswerError(f"closed after {received!r}")


def _read_head(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        received += (more := connection.recv(1 << 16))
        if not more:
            raise AnswerError(f"closed after {received!r}")
    return received.partition(b"\r\n\r\n")[0]


def _body_size(head: bytes) -> int:
    found = fields(head)
    if " 200 " not in found[""] + " ":
        raise AnswerError(found[""])
    try:
        return int(found["content-length"])
    except (KeyError, ValueError):
        raise AnswerError("no Content-Length") from None
