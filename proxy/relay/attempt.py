"""One attempt to connect to an endpoint, and what its failure is called."""

from __future__ import annotations

import _socket
import errno
from select import EPOLLOUT
from socket import IPPROTO_TCP, SO_ERROR, SO_KEEPALIVE, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, TCP_NODELAY
from time import monotonic
from typing import TYPE_CHECKING

from proxy.relay.connection import Connection, reset_on_close
from proxy.relay.engine import GONE, READ_ON

if TYPE_CHECKING:
    from proxy.relay.generation import Endpoint, Generation
    from proxy.relay.seeker import Seeker
    from proxy.relay.service import Service

UNDER_WAY = (errno.EINPROGRESS, errno.EALREADY)

_KIND = int(SOCK_STREAM | SOCK_NONBLOCK)
_REASONS = {
    errno.ECONNREFUSED: "refused",
    errno.ENOENT: "refused",  # no such Unix socket
    errno.EAGAIN: "refused",  # the accept queue of a Unix socket is full
    errno.ETIMEDOUT: "timeout",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTDOWN: "unreachable",
    errno.ENETDOWN: "unreachable",
}


class Attempt:
    """A socket that is being connected. From the start it counts as one of the endpoint's connections.

    `seeker` is set while somebody waits for it.
    """

    __slots__ = ("_started", "endpoint", "generation", "seeker", "sock", "was_reset")

    seeker: Seeker

    def __init__(self, endpoint: Endpoint, generation: Generation) -> None:
        """Raises OSError where there is no socket to be had."""
        self.endpoint = endpoint
        self.generation = generation
        self.sock = _socket.socket(endpoint.family, _KIND)
        self._started = monotonic()
        self.was_reset = False
        endpoint.connections += 1

    def connect(self) -> int:
        """Start; return an errno: 0 for connected, one of UNDER_WAY when that takes longer."""
        endpoint = self.endpoint
        error = self.sock.connect_ex(endpoint.sockaddr)
        if error == errno.EINPROGRESS and endpoint.is_loopback:
            # On loopback the handshake is through, or refused, before connect returns; only a second call says so.
            error = self.sock.connect_ex(endpoint.sockaddr)
        return self._judge(error)

    def on_event(self, mask: int) -> None:
        error = self.sock.getsockopt(SOL_SOCKET, SO_ERROR) if mask & GONE else 0
        self.seeker.attempted(self, self._judge(error), mask)

    def fail(self, error: Exception) -> None:
        self.seeker.fail(error)

    def succeeded(self) -> None:
        """Make the socket ready for use, and count it."""
        endpoint, sock = self.endpoint, self.sock
        if endpoint.port:
            sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            if not endpoint.is_loopback:
                sock.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
        self.generation.connected(monotonic() - self._started)

    def join(self, service: Service, client: _socket.socket, accepted: float, mask: int = 0) -> Connection:
        """Return the connection of this backend with a client. `mask` holds the events of the backend until now."""
        self.succeeded()
        connection = Connection(service, self.generation, self.endpoint, client, self.sock, accepted)
        backend = connection.backend
        if mask:
            backend.watches_out = True
            backend.read_on(mask & READ_ON)
        if mask & ~EPOLLOUT:
            backend.enqueue()  # the edge of what it said is gone
        if self.was_reset:
            backend.broke()
        return connection

    def failed(self, error: int) -> None:
        """Count it by its errno."""
        self.generation.failed(_REASONS.get(error, "other"))

    def withdraw(self) -> None:
        """Do not count as one of the endpoint's connections any longer. The socket is the caller's to close."""
        self.endpoint.connections -= 1

    def _judge(self, error: int) -> int:
        """Return the errno for what the kernel says, which has two more cases than it seems."""
        if error == errno.ECONNRESET:
            # A handshake is refused, not reset: this one was through, and the reset is part of what there is to relay.
            self.was_reset = True
            return 0
        if not error and self.endpoint.is_ephemeral and self._is_its_own_peer():
            return errno.ECONNREFUSED
        return error

    def _is_its_own_peer(self) -> bool:
        """Whether nobody listens, and TCP has connected the socket to itself (RFC 9293, 3.5).

        That can be when the port is one which the kernel also gives to sockets that connect. The socket would keep the
        port from the backend that is about to listen there, so it is not left to linger.
        """
        if self.sock.getsockname()[:2] != self.endpoint.sockaddr:
            return False
        reset_on_close(self.sock)
        return True
