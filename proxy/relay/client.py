"""A client that has no backend yet."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from proxy.logs import facts
from proxy.relay.connection import reset_on_close
from proxy.relay.engine import GONE, READ_ON, STREAM_OUT
from proxy.relay.seeker import Seeker

if TYPE_CHECKING:
    import _socket

    from proxy.relay.attempt import Attempt
    from proxy.relay.service import Service

log = logging.getLogger(__name__)


class Client(Seeker):
    """An accepted connection on its way to a backend. What it sends meanwhile stays in the kernel."""

    __slots__ = ("_accepted", "_is_watched", "_seen", "_sock")

    def __init__(self, service: Service, sock: _socket.socket) -> None:
        super().__init__(service)
        self._accepted = service.engine.now
        self._is_watched = False
        self._seen = 0  # what events told while it waited
        self._sock = sock

    def on_event(self, mask: int) -> None:
        """A client that only sent FIN may be waiting for an answer; one that is gone both ways is not."""
        self._seen |= mask
        if mask & GONE:
            self.end()

    def waits(self) -> None:
        if not self._is_watched:
            self._is_watched = True
            self.service.engine.watch(self._sock.fileno(), self, STREAM_OUT)

    def connected(self, attempt: Attempt, mask: int) -> None:
        """Become a connection."""
        connection = attempt.join(self.service, self._sock, self._accepted, mask)
        if self._is_watched:
            connection.client.watches_out = True
            connection.client.read_on(self._seen & READ_ON)
        connection.start()

    def refused(self, reason: str) -> None:
        self.service.refuse(reason)
        self.end()

    def end(self) -> None:
        """Close it, with RST."""
        self.withdraw()
        reset_on_close(self._sock)
        self.service.engine.close(self._sock)
        self.service.client_left()

    def fail(self, error: Exception) -> None:
        log.error("a client could not be connected", exc_info=error, extra=facts(service=self.service.name))
        self.refused("internal")
