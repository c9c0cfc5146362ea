"""A real worker process, and a test that plays control, clients and backends around it.

Tests hold both ends of what they look at, as blocking sockets with a timeout. They wait for bytes, events and messages.
"""

from __future__ import annotations

import itertools
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

from proxy import wire
from proxy.core.address import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE = 20.0  # seconds; nothing waits this long when all is well
RESET = struct.pack("ii", 1, 0)
_TICKS = os.sysconf("SC_CLK_TCK")


class Control:
    """Control's end of the link."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.settimeout(PATIENCE)
        self._sock.connect(str(path))
        self._numbers = itertools.count(1)
        self.unasked: list[wire.Remaining] = []

    def hello(self) -> wire.Hello:
        message = self.receive()
        assert isinstance(message, wire.Hello)
        return message

    def receive(self) -> wire.Message:
        payload = self._sock.recv(wire.MAX_MESSAGE)
        if not payload:
            raise EOFError("the worker closed the link")
        return wire.decode(payload)

    def send(self, kind: Callable[..., wire.Request], *fields: Any, fds: tuple[int, ...] = (), **named: Any) -> int:
        """Send a request; return its number."""
        request = kind(next(self._numbers), *fields, **named)
        self.send_raw(wire.encode(request), fds)
        return request.seq

    def send_raw(self, payload: bytes, fds: tuple[int, ...] = ()) -> None:
        socket.send_fds(self._sock, [payload], fds)

    def answers(self, number: int) -> list[wire.Message]:
        """Return what came in answer to a request, the Ack last; what came unasked is kept."""
        found: list[wire.Message] = []
        while True:
            message = self.receive()
            if isinstance(message, wire.Remaining):
                self.unasked.append(message)
                continue
            found.append(message)
            if isinstance(message, wire.Ack):
                assert message.seq == number
                return found

    def ask(self, kind: Callable[..., wire.Request], *fields: Any, fds: tuple[int, ...] = (), **named: Any) -> wire.Ack:
        """Send a request and return its Ack, which must not be an error."""
        ack = self.answers(self.send(kind, *fields, fds=fds, **named))[-1]
        assert isinstance(ack, wire.Ack)
        assert ack.error == ""
        return ack

    def refused(self, kind: Callable[..., wire.Request], *fields: Any, **named: Any) -> str:
        """Send a request that cannot be served; return the error."""
        ack = self.answers(self.send(kind, *fields, **named))[-1]
        assert isinstance(ack, wire.Ack)
        assert ack.error
        return ack.error

    def listen(self, service: str, listener: Listener) -> None:
        self.ask(wire.Listen, service, add=(listener.address,), fds=(listener.sock.fileno(),))

    def route(self, service: str, generation: int, *addresses: str, **policy: Any) -> dict[int, int]:
        endpoints = tuple(wire.Endpoint(replica, address) for replica, address in enumerate(addresses))
        return self.ask(wire.Route, service, generation, endpoints, **policy).connections

    def remaining(self) -> wire.Remaining:
        """Return the next thing that the worker says unasked."""
        if self.unasked:
            return self.unasked.pop(0)
        message = self.receive()
        assert isinstance(message, wire.Remaining)
        return message

    def counts(self, service: str) -> wire.Counts:
        for message in self.answers(self.send(wire.Snapshot)):
            if isinstance(message, wire.Counts) and message.service == service:
                return message
        raise KeyError(service)

    def counts_when(self, service: str, condition: Callable[[wire.Counts], bool]) -> wire.Counts:
        """Return the counts once the condition holds: what the worker does on its own has no other event."""
        return eventually(lambda: found if condition(found := self.counts(service)) else None)

    def close(self) -> None:
        self._sock.close()


def eventually[T](look: Callable[[], T | None]) -> T:
    raise NotImplementedError


class Listener:
    """A public listener as control would pass it."""

    def __init__(self, address: str, *, backlog: int = 4096) -> None:
        wanted = Address.parse(address)
        self.sock = socket.socket(wanted.family)
        self.sock.bind(wanted.sockaddr)
        if not wanted.is_unix:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wanted = Address(wanted.host, self.sock.getsockname()[1])
        self.sock.listen(backlog)
        self.sock.settimeout(PATIENCE)
        self.address = str(wanted)

    def accept(self) -> socket.socket:
        sock, _ = self.sock.accept()
        sock.settimeout(PATIENCE)
        return sock

    def close(self) -> None:
        self.sock.close()


def connect(address: str, *, receive_buffer: int = 0) -> socket.socket:
    """Connect as a client would, where the backlog allows."""
    wanted = Address.parse(address)
    sock = socket.socket(wanted.family)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(PATIENCE)
    sock.connect(wanted.sockaddr)
    return sock
