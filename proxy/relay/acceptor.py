"""Listeners, and when not to accept.

A worker that has no room takes its listeners out of the epoll set: new connections then wait in the kernel's queue, or
go to another worker. Nothing is accepted to be thrown away, and nothing spins.
"""

from __future__ import annotations

import _socket
import errno
import logging
import os
import socket
from pathlib import Path
from select import EPOLLEXCLUSIVE, EPOLLIN
from typing import TYPE_CHECKING, Protocol

from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.relay.engine import Engine
    from proxy.relay.timers import Timer

log = logging.getLogger(__name__)

BATCH = 8  # connections per event, so that workers share what arrives
# accept(2): errors of the connection that was to be accepted; it is gone, and the next one may be fine. Every other
# error (EMFILE, ENFILE, ENOBUFS, ENOMEM, and what nobody thought of) is there again at the next try.
PASSING = frozenset(
    {
        errno.ECONNABORTED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENONET,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EPROTO,
    }
)
RETRY = 1.0  # seconds until accepting is tried again when no connection was closed meanwhile
QUIET = 10.0  # seconds between two warnings
# Seconds. The kernel wakes one of the workers that wait for a listener, and tells no other (EPOLLEXCLUSIVE). One that
# is stopped or killed in that very moment was woken for nothing; another one finds who waits when it looks by itself.
LOOK = 1.0


class Admission(Protocol):
    """Who takes what a listener accepts."""

    def admit(self, client: _socket.socket, address: object) -> None:
        """Take a client that comes from `address`, as accept(2) has it."""
        ...


class Gate:
    """How many clients a worker may have, for all services together, and whether it accepts now."""

    def __init__(self, engine: Engine, capacity: int) -> None:
        self._engine = engine
        self._retry: Timer | None = None
        self._warned = float("-inf")
        self._emptied: Callable[[], None] | None = None  # set while it is closed on purpose
        self.capacity = capacity
        self.clients = 0
        self.is_open = True
        self.listeners: set[Listener] = set()

    def enter(self) -> None:
        self.clients += 1
        if self.clients >= self.capacity:
            self._warn("at the limit of connections", limit=self.capacity)
            self._shut()

    def leave(self) -> None:
        self.clients -= 1
        if not self.is_open:
            self._open()

    def starve(self, error: OSError) -> None:
        """Nothing can be accepted now: do not try until a connection is closed, or RETRY is over."""
        self._warn("cannot accept", error=error.strerror, clients=self.clients)
        if self._retry is None:
            self._retry = self._engine.at(self._engine.now + RETRY, self._on_retry)
        self._shut()

    def close(self, emptied: Callable[[], None]) -> None:
        """Accept nobody until `reopen`; when the last client leaves meanwhile, `emptied` is called."""
        self._emptied = emptied
        self._shut()

    def reopen(self) -> None:
        self._emptied = None
        self._open()

    def keep_looking(self) -> None:
        """Look after every listener from time to time, also when no event has told of anything."""
        for listener in tuple(self.listeners):
            listener.look()
        self._engine.at(self._engine.now + LOOK, self.keep_looking)

    def _on_retry(self) -> None:
        self._retry = None
        self._open()

    def _shut(self) -> None:
        self.is_open = False
        for listener in self.listeners:
            listener.update()

    def _open(self) -> None:
        if self._emptied is not None:
            if not self.clients:
                self._emptied()
        elif not self.is_open and self.clients < self.capacity:
            self.is_open = True
            for listener in self.listeners:
                listener.update()

    def _warn(self, event: str, **values: object) -> None:
        if self._engine.now - self._warned >= QUIET:
            self._warned = self._engine.now
            log.warning(event, extra=facts(**values))


class Listener:
    """A listening socket that other workers share. `wanted` says whether its service has room.

    One that is not to `accept` is only kept open: it is others who accept on it, and how they find it (whether it
    blocks, what accepted sockets are like) is their business.
    """

    def __init__(self, engine: Engine, gate: Gate, service: Admission, fd: int, *, accept: bool = True) -> None:
        """Copy the descriptor. Raises ValueError or OSError for one that does not listen."""
        self._engine = engine
        self._gate = gate
        self._service = service
        self.accepts = accept
        self._sock = _copy(fd, accept=accept)
        self._kind = int(self._sock.family), int(socket.SOCK_STREAM), self._sock.proto
        if accept:
            self._sock.setblocking(False)
            # A byte marked urgent stays in the stream; accepted sockets inherit this.
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self._is_watched = False
        self.wanted = False
        gate.listeners.add(self)

    @property
    def fd(self) -> int:
        return self._sock.fileno()

    def update(self) -> None:
        """Watch the listener, or stop, as the service and the gate have it now."""
        watch = self.accepts and self.wanted and self._gate.is_open
        if watch and not self._is_watched:
            # EPOLLEXCLUSIVE cannot be modified, nor combined with EPOLLONESHOT (epoll_ctl(2)).
            self._engine.watch(self._sock.fileno(), self, EPOLLIN | EPOLLEXCLUSIVE)
        elif self._is_watched and not watch:
            self._engine.unwatch(self._sock.fileno())
        self._is_watched = watch

    def close(self, *, drain: bool) -> None:
        """Stop listening; with `drain`, accept what waits in the queue first, room or not."""
        self.wanted = False
        self.update()
        if drain and self.accepts:
            for _ in range(_longest_queue()):
                if not self._accept():
                    break
        self._gate.listeners.discard(self)
        self._sock.close()

    def look(self) -> None:
        """Accept who is there, though no event has told."""
        if self._is_watched:
            self.on_event(0)

    def on_event(self, _mask: int) -> None:
        for _ in range(BATCH):
            if not self._accept() or not self._is_watched:
                return

    def fail(self, error: Exception) -> None:
        log.error("a listener failed", exc_info=error)
        self._gate.starve(OSError(0, "an error of the proxy's own"))

    def _accept(self) -> bool:
        """Accept a connection; return whether there may be more."""
        try:
            # What socket.accept wraps; it returns a bare descriptor.
            fd, address = self._sock._accept()  # type: ignore[attr-defined]  # noqa: SLF001
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in PASSING:
                return True
            self._gate.starve(error)
            return False
        self._service.admit(_socket.socket(*self._kind, fd), address)
        return True


def _longest_queue() -> int:
    """Return how many connections can wait in an accept queue (listen(2)). Under load there is always one more."""
    try:
        return int(Path("/proc/sys/net/core/somaxconn").read_text(encoding="ascii"))
    except OSError:
        return 4096


def _copy(fd: int, *, accept: bool = True) -> socket.socket:
    """Return a socket of its own on a listener's descriptor, which stays the caller's."""
    lent = socket.socket(fileno=fd)
    try:
        if not accept:
            _check_listens(lent)
            return socket.socket(fileno=os.dup(fd))
        # All workers share the listener's O_NONBLOCK (fcntl(2)), and `dup` would clear it for a moment: long enough for
        # another one to be caught in an accept that blocks.
        lent.setblocking(False)
        _check_listens(lent)
        return lent.dup()
    finally:
        lent.detach()


def _check_listens(sock: socket.socket) -> None:
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ValueError(f"descriptor {sock.fileno()} does not listen")
