"""A client that has no backend yet: it is held, waits, or is being connected."""

from __future__ import annotations

import errno
import logging
import math
from typing import TYPE_CHECKING

from proxy.logs import facts
from proxy.relay.attempt import UNDER_WAY, Attempt
from proxy.relay.connection import reset_on_close
from proxy.relay.engine import GONE, READ_ON, STREAM_OUT

if TYPE_CHECKING:
    import _socket

    from proxy.relay.generation import Endpoint
    from proxy.relay.service import Service
    from proxy.relay.timers import Timer

log = logging.getLogger(__name__)

FIRST_RETRY = 0.05
LAST_RETRY = 0.5


class Client:
    """An accepted connection on its way to a backend.

    It tries the endpoints of the present route, each once; then it waits, longer each time, and starts over, until
    `deadline`. While the service is held or paused it waits without a limit. What it sends stays in the kernel.
    """

    __slots__ = (
        "_accepted",
        "_attempt",
        "_backoff",
        "_is_watched",
        "_seen",
        "_service",
        "_sock",
        "_timer",
        "_tried",
        "deadline",
    )

    def __init__(self, service: Service, sock: _socket.socket) -> None:
        self._accepted = service.engine.now
        self._attempt: Attempt | None = None
        self._backoff = FIRST_RETRY
        self._is_watched = False
        self._seen = 0  # what events told while it waited
        self._service = service
        self._sock = sock
        self._timer: Timer | None = None
        self._tried: set[Endpoint] = set()
        self.deadline = service.deadline()

    def start(self) -> None:
        """Begin a round of attempts by the present route, or wait if there is none to take."""
        self._cancel_timer()
        self._tried.clear()
        try:
            if self._service.is_holding:
                self._wait()
            else:
                self._try_endpoints()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this client's alone
            self.fail(error)

    def take_over(self, attempt: Attempt, error: int) -> None:
        """Go on with a first attempt that was not successful at once."""
        try:
            if not self._began(attempt, error):
                self._try_endpoints()
        except Exception as bug:  # noqa: BLE001  # as above
            self.fail(bug)

    def rearm(self, retry: float = math.inf) -> None:
        """Set the timer of a client that waits, for its deadline or before; there is none while the service is held."""
        self._cancel_timer()
        when = min(retry, self.deadline)
        if when != math.inf and not self._service.is_holding:
            self._timer = self._service.engine.at(when, self._on_timer)

    def redirect(self) -> None:
        """Leave the endpoint that is being tried: its generation does not take connections any more."""
        self._abandon()
        self.start()

    def end(self) -> None:
        """Close it from outside, with RST."""
        self._abandon()
        self._cancel_timer()
        self._service.waiting.pop(self, None)
        reset_on_close(self._sock)
        self._service.engine.close(self._sock)
        self._service.client_left()

    def fail(self, error: Exception) -> None:
        log.error("a client could not be connected", exc_info=error, extra=facts(service=self._service.name))
        self._refuse("internal")

    # Waiting

    def _wait(self, retry: float = math.inf) -> None:
        """Wait for the next route, until `retry` or the deadline."""
        service = self._service
        if not self._is_watched:
            self._is_watched = True
            service.engine.watch(self._sock.fileno(), self, STREAM_OUT)
        service.waiting[self] = None
        self.rearm(retry)

    def _on_timer(self) -> None:
        self._timer = None
        if self._attempt is not None:
            self._attempt_failed(self._attempt, errno.ETIMEDOUT)
        else:
            del self._service.waiting[self]
            self.start()

    def on_event(self, mask: int) -> None:
        """A client that only sent FIN may be waiting for an answer; one that is gone both ways is not."""
        self._seen |= mask
        if mask & GONE:
            self.end()

    # Connecting

    def _try_endpoints(self) -> None:
        """Try endpoints that are left in this round, until one is connected or being connected."""
        service = self._service
        while service.engine.now < self.deadline:
            endpoint = service.pick(self._tried)
            if endpoint is None:
                self._wait(service.engine.now + self._backoff)
                self._backoff = min(self._backoff * 2, LAST_RETRY)
                return
            if self._try(endpoint):
                return
        self._refuse("no_backend")

    def _try(self, endpoint: Endpoint) -> bool:
        """Start to connect; return whether that did not fail at once."""
        service = self._service
        try:
            attempt = Attempt(endpoint, service.generation)
        except OSError as shortage:
            service.gate.starve(shortage)
            service.generation.failed("other")
            self._tried.add(endpoint)
            return False
        return self._began(attempt, attempt.connect())

    def _began(self, attempt: Attempt, error: int) -> bool:
        """Go on with an attempt that was just begun; return whether it did not fail at once."""
        service = self._service
        if error == 0:
            self._connected(attempt, 0)
        elif error in UNDER_WAY:
            self._attempt, attempt.client = attempt, self
            attempt.generation.members.add(self)
            service.engine.watch(attempt.sock.fileno(), attempt, STREAM_OUT)
            self._timer = service.engine.at(min(self.deadline, service.engine.now + service.patience), self._on_timer)
        else:
            attempt.failed(error)
            attempt.withdraw()
            attempt.sock.close()
            self._tried.add(attempt.endpoint)
            return False
        return True

    def attempted(self, attempt: Attempt, error: int, mask: int) -> None:
        """The attempt that was under way has come to something: an errno, or 0 for success."""
        if error:
            self._attempt_failed(attempt, error)
        else:
            self._attempt = None
            self._cancel_timer()
            attempt.generation.members.remove(self)
            self._connected(attempt, mask)

    def _attempt_failed(self, attempt: Attempt, error: int) -> None:
        attempt.failed(error)
        self._tried.add(attempt.endpoint)
        self._abandon()
        if self._service.is_holding:
            self._wait()
        else:
            self._try_endpoints()

    def _abandon(self) -> None:
        """Give up the attempt that is under way, if one is."""
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            self._cancel_timer()
            attempt.withdraw()
            self._service.engine.close(attempt.sock)
            self._service.leave_generation(self, attempt.generation)

    def _connected(self, attempt: Attempt, mask: int) -> None:
        """Become a connection. `mask` holds the events of the backend's socket until now."""
        connection = attempt.join(self._service, self._sock, self._accepted, mask)
        if self._is_watched:
            connection.client.watches_out = True
            connection.client.read_on(self._seen & READ_ON)
        connection.start()

    # The end

    def _refuse(self, reason: str) -> None:
        self._service.refuse(reason)
        self.end()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
