"""Listeners, and when not to accept.

A worker that has no room takes its listeners out of the epoll set: new connections then wait in the kernel's queue, or
go to another worker. Nothing is accepted to be thrown away, and nothing spins.
"""

from __future__ import annotations

import errno
import logging
import socket
from _socket import socket as Socket  # noqa: N812  # half the cost of socket.socket, which wraps it
from select import EPOLLEXCLUSIVE, EPOLLIN
from typing import TYPE_CHECKING, Protocol

from proxy.logs import facts

if TYPE_CHECKING:
    from proxy.relay.engine import Engine

log = logging.getLogger(__name__)

BATCH = 8  # connections per event, so that workers share what arrives
QUEUE = 65536  # at least as much as an accept queue can hold (net.core.somaxconn is 16 bits for listen(2))
STARVED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
RETRY = 1.0  # seconds until accepting is tried again when no connection was closed meanwhile
QUIET = 10.0  # seconds between two warnings


class Admission(Protocol):
    """Who takes what a listener accepts."""

    def admit(self, client: Socket) -> None: ...


class Gate:
    """How many clients a worker may have, for all services together, and whether it accepts now."""

    def __init__(self, engine: Engine, capacity: int) -> None:
        self._engine = engine
        self._starved = False
        self._warned = float("-inf")
        self.capacity = capacity
        self.clients = 0
        self.listeners: set[Listener] = set()

    @property
    def is_open(self) -> bool:
        return self.clients < self.capacity and not self._starved

    def enter(self) -> None:
        self.clients += 1
        if self.clients >= self.capacity:
            self._warn("at the limit of connections", limit=self.capacity)
            self._update()

    def leave(self) -> None:
        was_shut = not self.is_open
        self.clients -= 1
        if was_shut:
            self._starved = False
            self._update()

    def starve(self, error: OSError) -> None:
        """There are no descriptors or no memory left: stop accepting until a connection is closed, or RETRY is over."""
        if self._starved:
            return
        self._starved = True
        self._warn("cannot accept", error=error.strerror, clients=self.clients)
        self._engine.at(self._engine.now + RETRY, self._retry)
        self._update()

    def _retry(self) -> None:
        self._starved = False
        self._update()

    def _update(self) -> None:
        for listener in self.listeners:
            listener.update()

    def _warn(self, event: str, **values: object) -> None:
        if self._engine.now - self._warned >= QUIET:
            self._warned = self._engine.now
            log.warning(event, extra=facts(**values))


class Listener:
    """A listening socket that other workers share. `wanted` says whether its service has room."""

    def __init__(self, engine: Engine, gate: Gate, service: Admission, fd: int) -> None:
        self._engine = engine
        self._gate = gate
        self._service = service
        self._sock = socket.socket(fileno=fd)
        self._sock.setblocking(False)
        # A byte marked urgent stays in the stream; accepted sockets inherit this.
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self._watched = False
        self.wanted = False
        gate.listeners.add(self)

    def update(self) -> None:
        """Watch the listener, or stop, as the service and the gate have it now."""
        watch = self.wanted and self._gate.is_open
        if watch and not self._watched:
            # EPOLLEXCLUSIVE cannot be modified, nor combined with EPOLLONESHOT (epoll_ctl(2)).
            self._engine.watch(self._sock.fileno(), self._on_event, EPOLLIN | EPOLLEXCLUSIVE)
        elif self._watched and not watch:
            self._engine.unwatch(self._sock.fileno())
        self._watched = watch

    def close(self, *, drain: bool) -> None:
        """Stop listening; with `drain`, accept what waits in the queue first."""
        if drain:
            self._accept(QUEUE)
        self.wanted = False
        self.update()
        self._gate.listeners.discard(self)
        self._sock.close()

    def _on_event(self, _mask: int) -> None:
        self._accept(BATCH)

    def _accept(self, limit: int) -> None:
        accept, family, proto = self._sock._accept, self._sock.family, self._sock.proto  # type: ignore[attr-defined]
        for _ in range(limit):
            try:
                fd, _address = accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in STARVED:
                    # accept(2): errors of the connection that was to be accepted; the next one may be fine.
                    log.debug("a connection was gone before it was accepted", extra=facts(error=error.strerror))
                    continue
                self._gate.starve(error)
                return
            self._service.admit(Socket(family, socket.SOCK_STREAM, proto, fd))
            if not self._watched:
                return
