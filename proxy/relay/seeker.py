"""On the way to a backend: held, waiting, or being connected."""

from __future__ import annotations

import errno
import math
from typing import TYPE_CHECKING

from proxy.relay.attempt import UNDER_WAY, Attempt
from proxy.relay.engine import STREAM_OUT

if TYPE_CHECKING:
    from proxy.relay.generation import Endpoint
    from proxy.relay.service import Service
    from proxy.relay.timers import Timer

FIRST_RETRY = 0.05
LAST_RETRY = 0.5


class Seeker:
    """Somebody who wants a connection to a backend.

    It tries the endpoints of the present route, each once; then it waits, longer each time, and starts over, until
    `deadline`. While the service is held or paused it waits without a limit. Who it is decides what comes of it: see
    the methods at the end.
    """

    __slots__ = ("_attempt", "_backoff", "_timer", "_tried", "deadline", "service")

    def __init__(self, service: Service) -> None:
        self._attempt: Attempt | None = None
        self._backoff = FIRST_RETRY
        self._timer: Timer | None = None
        self._tried: set[Endpoint] = set()
        self.service = service
        self.deadline = service.deadline()

    def start(self) -> None:
        """Begin a round of attempts by the present route, or wait if there is none to take."""
        self._cancel_timer()
        self._tried.clear()
        try:
            if self.service.is_holding:
                self._wait()
            else:
                self._seek()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this one's alone
            self.fail(error)

    def take_over(self, attempt: Attempt, error: int) -> None:
        """Go on with a first attempt that was not successful at once."""
        try:
            if not self._began(attempt, error):
                self._try_endpoints()
        except Exception as bug:  # noqa: BLE001  # as above
            self.fail(bug)

    def rearm(self, retry: float = math.inf) -> None:
        """Set the timer of one that waits, for its deadline or before; there is none while the service is held."""
        self._cancel_timer()
        when = min(retry, self.deadline)
        if when != math.inf and not self.service.is_holding:
            self._timer = self.service.engine.at(when, self._on_timer)

    def redirect(self) -> None:
        """Leave the endpoint that is being tried: its generation does not take connections any more."""
        self._abandon()
        self.start()

    def withdraw(self) -> None:
        """Want no backend any more."""
        self._abandon()
        self._cancel_timer()
        self.service.waiting.pop(self, None)

    def suspend(self) -> None:
        """Want no backend here any more, to go on wanting one elsewhere: nobody is told."""
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.withdraw()
            self.service.engine.close(attempt.sock)
            attempt.generation.members.remove(self)
        self._cancel_timer()
        self.service.waiting.pop(self, None)

    @property
    def is_seeking(self) -> bool:
        return self._attempt is not None or self in self.service.waiting

    # Waiting

    def _wait(self, retry: float = math.inf) -> None:
        """Wait for the next route, until `retry` or the deadline."""
        self.waits()
        self.service.waiting[self] = None
        self.rearm(retry)

    def _on_timer(self) -> None:
        self._timer = None
        if self._attempt is not None:
            self._attempt_failed(self._attempt, errno.ETIMEDOUT)
        else:
            del self.service.waiting[self]
            self.start()

    # Connecting

    def _seek(self) -> None:
        self._try_endpoints()

    def _try_endpoints(self) -> None:
        """Try endpoints that are left in this round, until one is connected or being connected."""
        service = self.service
        while service.engine.now < self.deadline:
            endpoint = service.pick(self._tried)
            if endpoint is None:
                self._wait(service.engine.now + self._backoff)
                self._backoff = min(self._backoff * 2, LAST_RETRY)
                return
            if self._try(endpoint):
                return
        self.refused("no_backend")

    def _try(self, endpoint: Endpoint) -> bool:
        """Start to connect; return whether that did not fail at once."""
        service = self.service
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
        service = self.service
        if error == 0:
            self.connected(attempt, 0)
        elif error in UNDER_WAY:
            self._attempt, attempt.seeker = attempt, self
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
            self.connected(attempt, mask)

    def _attempt_failed(self, attempt: Attempt, error: int) -> None:
        attempt.failed(error)
        self._tried.add(attempt.endpoint)
        self._abandon()
        if self.service.is_holding:
            self._wait()
        else:
            self._try_endpoints()

    def _abandon(self) -> None:
        """Give up the attempt that is under way, if one is."""
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            self._cancel_timer()
            attempt.withdraw()
            self.service.engine.close(attempt.sock)
            self.service.leave_generation(self, attempt.generation)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # What comes of it

    def waits(self) -> None:
        """It begins to wait."""

    def connected(self, attempt: Attempt, mask: int) -> None:
        """The attempt was successful. `mask` holds the events of the backend's socket until now."""
        raise NotImplementedError

    def refused(self, reason: str) -> None:
        """There is no backend to be had."""
        raise NotImplementedError

    def end(self) -> None:
        """It is cut off from outside."""
        raise NotImplementedError

    def fail(self, error: Exception) -> None:
        """Give up after an error of our own."""
        raise NotImplementedError
