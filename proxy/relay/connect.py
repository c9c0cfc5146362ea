"""A client that has no backend yet: it is held, waits, or is being connected."""

from __future__ import annotations

import errno
import math
import socket
from _socket import socket as Socket  # noqa: N812  # half the cost of socket.socket, which wraps it
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from proxy.relay.connection import Connection, reset_on_close
from proxy.relay.engine import ENDING, GONE

if TYPE_CHECKING:
    from proxy.relay.generation import Endpoint, Generation
    from proxy.relay.service import Service
    from proxy.relay.timers import Timer

FIRST_RETRY = 0.05
LAST_RETRY = 0.5
SHORTEST_ATTEMPT = 1.0

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
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
    except OSError:
        return range(1024, 65536)
    return range(int(first), int(last) + 1)


EPHEMERAL = _ephemeral_ports()


class Client:
    """An accepted connection on its way to a backend.

    It tries the endpoints of the present route, each once; then it waits, longer each time, and starts over, until
    `deadline`. While the service is held or paused it waits without a limit. Bytes it sends stay in the kernel.
    """

    __slots__ = (
        "_attempt",
        "_backoff",
        "_endpoint",
        "_generation",
        "_seen",
        "_service",
        "_started",
        "_timer",
        "_tried",
        "_watched",
        "accepted",
        "deadline",
        "sock",
    )

    def __init__(self, service: Service, sock: Socket) -> None:
        self._service = service
        self._attempt: Socket | None = None
        self._backoff = FIRST_RETRY
        self._endpoint: Endpoint | None = None
        self._generation: Generation | None = None
        self._seen = 0  # events while it was watched here
        self._started = 0.0
        self._timer: Timer | None = None
        self._tried: set[Endpoint] = set()
        self._watched = False
        self.sock = sock
        self.accepted = service.engine.now
        self.deadline = math.inf

    def start(self) -> None:
        """Begin a round of attempts by the present route, or wait if there is none to take."""
        self._cancel_timer()
        self._tried.clear()
        if self._service.is_holding or not self._service.endpoints:
            self.wait()
        else:
            self._try_next()

    def wait(self, retry: float = math.inf) -> None:
        """Wait for the next route, until `retry` or the deadline."""
        service = self._service
        if not self._watched:
            self._watched = True
            service.engine.watch(self.sock.fileno(), self._on_client_event)
        service.waiting[self] = None
        self.rearm(retry)

    def rearm(self, retry: float = math.inf) -> None:
        """Set the timer of a client that waits as its deadline is now; there is none while the service is held."""
        self._cancel_timer()
        when = min(retry, self.deadline)
        if when != math.inf and not self._service.is_holding:
            self._timer = self._service.engine.at(when, self._on_timer)

    def redirect(self) -> None:
        """Leave the endpoint that is being tried: its generation does not take connections any more."""
        self._leave_endpoint()
        self.start()

    def end(self) -> None:
        """Close it from outside."""
        self._drop()

    # Events

    def _on_client_event(self, mask: int) -> None:
        """A client that only sent FIN may be waiting for an answer; one that is gone both ways is not."""
        self._seen |= mask
        if mask & GONE:
            self._drop()

    def _on_timer(self) -> None:
        self._timer = None
        service = self._service
        if self._attempt is not None:
            self._failed("timeout")
        elif service.engine.now >= self.deadline:
            self._refuse()
        else:
            service.waiting.pop(self)
            self.start()

    def _on_attempt_event(self, mask: int) -> None:
        attempt = self._attempt
        assert attempt is not None
        error = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if mask & GONE else 0
        if error:
            self._failed(_REASONS.get(error, "other"))
        else:
            self._connected(mask)

    # Attempts

    def _try_next(self) -> None:
        """Try endpoints of this round until one is connected, being connected, or none is left."""
        service = self._service
        while (endpoint := service.pick(self._tried)) is not None:
            if service.engine.now >= self.deadline:
                self._refuse()
                return
            self._tried.add(endpoint)
            if self._try(endpoint):
                return
        now = service.engine.now
        if now >= self.deadline:
            self._refuse()
            return
        self.wait(now + self._backoff)
        self._backoff = min(self._backoff * 2, LAST_RETRY)

    def _try(self, endpoint: Endpoint) -> bool:
        """Start to connect; return whether that did not fail at once."""
        service = self._service
        generation = service.generation
        assert generation is not None
        self._started = monotonic()
        try:
            attempt = Socket(endpoint.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as shortage:
            service.gate.starve(shortage)
            generation.failed("other")
            return False
        error = attempt.connect_ex(endpoint.sockaddr)
        if error not in (0, errno.EINPROGRESS):
            attempt.close()
            generation.failed(_REASONS.get(error, "other"))
            return False
        if endpoint.family != socket.AF_UNIX:
            attempt.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            if not endpoint.is_loopback:
                attempt.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._attempt, self._endpoint, self._generation = attempt, endpoint, generation
        endpoint.connections += 1
        generation.members.add(self)
        if error == 0:
            self._connected(0)
        else:
            service.engine.watch(attempt.fileno(), self._on_attempt_event)
            self._timer = service.engine.at(self._bound(), self._on_timer)
        return True

    def _bound(self) -> float:
        """Until when this attempt may take: one endpoint that does not answer leaves time for the others."""
        now, policy = self._service.engine.now, self._service.policy
        assert policy is not None
        if len(self._service.endpoints) == 1:
            return self.deadline
        return min(self.deadline, now + max(SHORTEST_ATTEMPT, policy.connect_timeout / 4))

    def _connected(self, mask: int) -> None:
        service, attempt, endpoint, generation = self._service, self._attempt, self._endpoint, self._generation
        assert attempt is not None and endpoint is not None and generation is not None
        if endpoint.port in EPHEMERAL and attempt.getsockname() == attempt.getpeername():
            # Nobody listened, and TCP connected the socket to itself (RFC 793, simultaneous open).
            self._failed("refused")
            return
        self._cancel_timer()
        generation.members.remove(self)
        generation.connected(monotonic() - self._started)
        connection = Connection(
            service,
            generation,
            endpoint,
            self.sock,
            attempt,
            accepted=self.accepted,
            client_ending=bool(self._seen & ENDING),
            backend_ending=bool(mask & ENDING),
        )
        generation.members.add(connection)
        service.engine.relay(connection.client)
        service.engine.relay(connection.backend)
        if self._watched:
            connection.client.enqueue()
        if mask:
            connection.backend.enqueue()

    def _failed(self, reason: str) -> None:
        assert self._generation is not None
        self._generation.failed(reason)
        self._leave_endpoint()
        if self._service.is_holding:
            self.wait()
        else:
            self._try_next()

    def _leave_endpoint(self) -> None:
        """Give up the present attempt."""
        attempt, endpoint, generation = self._attempt, self._endpoint, self._generation
        assert attempt is not None and endpoint is not None and generation is not None
        self._attempt = self._endpoint = self._generation = None
        self._cancel_timer()
        self._service.engine.close(attempt)
        endpoint.connections -= 1
        self._service.leave_generation(self, generation)

    # The end

    def _refuse(self) -> None:
        self._service.refuse("no_backend")
        self._drop()

    def _drop(self) -> None:
        """Close the client with RST."""
        if self._attempt is not None:
            self._leave_endpoint()
        self._cancel_timer()
        self._service.waiting.pop(self, None)
        reset_on_close(self.sock)
        self._service.engine.close(self.sock)
        self._service.client_left()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
