"""One attempt to connect to an endpoint, and what its failure is called."""

from __future__ import annotations

import _socket
import errno
import socket
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from proxy.relay.connection import reset_on_close
from proxy.relay.engine import GONE

if TYPE_CHECKING:
    from proxy.relay.client import Client
    from proxy.relay.generation import Endpoint, Generation

UNDER_WAY = (errno.EINPROGRESS, errno.EALREADY)

_REASONS = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "refused",  # it went away with the connection in its accept queue
    errno.ENOENT: "refused",  # no such Unix socket
    errno.EAGAIN: "refused",  # the accept queue of a Unix socket is full
    errno.ETIMEDOUT: "timeout",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTDOWN: "unreachable",
    errno.ENETDOWN: "unreachable",
}


def _ephemeral_ports() -> range:
    """Return the ports that the kernel gives to sockets which did not ask for one (ip(7))."""
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
    except OSError:
        return range(1024, 65536)
    return range(int(first), int(last) + 1)


_EPHEMERAL = _ephemeral_ports()


class Attempt:
    """A socket that is being connected for a client. From the start it counts as one of the endpoint's connections."""

    __slots__ = ("_client", "_started", "endpoint", "generation", "sock")

    def __init__(self, client: Client, endpoint: Endpoint, generation: Generation) -> None:
        """Raises OSError where there is no socket to be had."""
        self._client = client
        self.endpoint = endpoint
        self.generation = generation
        self.sock = _socket.socket(endpoint.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._started = monotonic()
        endpoint.connections += 1

    def connect(self) -> int:
        """Start; return an errno: 0 for connected, one of UNDER_WAY when that takes longer."""
        error = self.sock.connect_ex(self.endpoint.sockaddr)
        if error == errno.EINPROGRESS and self.endpoint.is_loopback:
            # On loopback the handshake is through, or refused, before connect returns; only a second call says so.
            error = self.sock.connect_ex(self.endpoint.sockaddr)
        return error or self._connected_to_itself()

    def on_event(self, mask: int) -> None:
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if mask & GONE else 0
        self._client.attempted(self, error or self._connected_to_itself(), mask)

    def fail(self, error: Exception) -> None:
        self._client.fail(error)

    def succeeded(self) -> None:
        """Count it, and make the socket ready for relaying."""
        self.generation.connected(monotonic() - self._started)
        if self.endpoint.port:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)  # an urgent byte stays in the stream
            if not self.endpoint.is_loopback:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def failed(self, error: int) -> None:
        """Count it by its errno."""
        self.generation.failed(_REASONS.get(error, "other"))

    def withdraw(self) -> None:
        """Do not count as one of the endpoint's connections any longer. The socket is the caller's to close."""
        self.endpoint.connections -= 1

    def _connected_to_itself(self) -> int:
        """Return ECONNREFUSED if nobody listens and TCP took the socket for its own peer (RFC 9293, 3.5).

        That happens when the port is one which the kernel also gives to sockets that connect. The socket would keep the
        port from the backend that is about to listen there.
        """
        endpoint = self.endpoint
        if endpoint.port in _EPHEMERAL and self.sock.getsockname()[:2] == endpoint.sockaddr[:2]:
            reset_on_close(self.sock)
            return errno.ECONNREFUSED
        return 0
