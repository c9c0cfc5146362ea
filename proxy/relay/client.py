"""A client that has no backend yet."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from proxy.core.address import Address
from proxy.logs import facts
from proxy.relay.attempt import Attempt
from proxy.relay.connection import reset_on_close
from proxy.relay.engine import GONE, READ_ON, STREAM_OUT
from proxy.relay.parcel import MOMENT, Parcel
from proxy.relay.place import find_place, place_of
from proxy.relay.seeker import Seeker

if TYPE_CHECKING:
    import _socket

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

    # From one worker to another

    @property
    def fd(self) -> int:
        return self._sock.fileno()

    @property
    def last(self) -> float:
        """When something happened last, in seconds of time.monotonic()."""
        return self._accepted

    def pack(self) -> Parcel:
        """Take it out of its service; nothing is closed but the attempt that is under way, to be begun anew."""
        service, attempt, deadline = self.service, self._attempt, self.deadline
        state = {
            "accepted": self._accepted,
            "deadline": None if service.is_holding or deadline == math.inf else deadline,
            "attempt": place_of(attempt.generation, attempt.endpoint) if attempt is not None else None,
        }
        if self._is_watched:
            service.engine.unwatch(self._sock.fileno())
        self.suspend()
        service.client_left()
        return Parcel("client", service.name, state, (self._sock,))

    @staticmethod
    def check(parcel: Parcel) -> None:
        """Raise ValueError, KeyError or TypeError for what `unpack` would not understand; nothing is touched."""
        state = parcel.state
        if len(parcel.sockets) != 1:
            raise ValueError(f"{len(parcel.sockets)} sockets")
        if state["attempt"] is not None:
            Address.parse(state["attempt"]["endpoint"])
        float(state["accepted"]) + float(state["deadline"] or 0.0)

    @classmethod
    def unpack(cls, service: Service, parcel: Parcel) -> None:
        """Let it look for a backend in this service, within the time that it had left, but not without a chance."""
        state = parcel.state
        client = cls(service, parcel.sockets[0])
        client._accepted = float(state["accepted"])
        if state["deadline"] is not None:
            client.deadline = max(float(state["deadline"]), service.engine.now + MOMENT)
        service.client_came()
        try:
            client._go_on(state["attempt"])
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this client's alone
            client.fail(error)

    def _go_on(self, place: dict[str, Any] | None) -> None:
        if place is not None and self.service.is_ending:  # then there are no other endpoints any more
            attempt = Attempt(*find_place(self.service, place))
            self.take_over(attempt, attempt.connect())
        else:
            self.start()

    def fail(self, error: Exception) -> None:
        log.error("a client could not be connected", exc_info=error, extra=facts(service=self.service.name))
        self.refused("internal")
