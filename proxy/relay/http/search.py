"""A request on its way to a backend."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from proxy.relay.attempt import Attempt
from proxy.relay.http.stream import MOMENT
from proxy.relay.place import find_place, place_of
from proxy.relay.seeker import Seeker

if TYPE_CHECKING:
    from proxy.relay.generation import Endpoint
    from proxy.relay.http.client import HttpClient


class Search(Seeker):
    """Looks for a connection to a backend for what a client has asked. `avoid` is tried last."""

    __slots__ = ("_client",)

    def __init__(self, client: HttpClient, avoid: Endpoint | None = None) -> None:
        super().__init__(client.service)
        self._client = client
        if avoid is not None and len(self.service.endpoints) > 1:
            self._tried.add(avoid)

    def begin(self) -> None:
        """Like `start`, but for what is to be avoided."""
        if self.service.is_holding:
            self._wait()
        else:
            self._try_endpoints()

    def _seek(self) -> None:
        """After a wait, the connection that the client has kept may be good again."""
        if not self._client.resume():
            self._try_endpoints()

    # From one worker to another

    def state(self) -> dict[str, Any]:
        """What `restore` needs to begin anew elsewhere. There is no deadline while the service is held."""
        attempt, deadline = self._attempt, self.deadline
        return {
            "deadline": None if self.service.is_holding or deadline == math.inf else deadline,
            "tried": [endpoint.address for endpoint in self._tried],
            "attempt": None if attempt is None else place_of(attempt.generation, attempt.endpoint),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Begin anew, within the time that was left, but not without a chance."""
        service = self.service
        if state["deadline"] is not None:
            self.deadline = max(float(state["deadline"]), service.engine.now + MOMENT)
        self._tried.update(each for each in service.endpoints if each.address in state["tried"])
        if service.is_ending and state["attempt"]:  # it has no other endpoints any more
            attempt = Attempt(*find_place(service, state["attempt"]))
            self.take_over(attempt, attempt.connect())
        elif self._client.upstream is not None:
            self.start()
        else:
            self.begin()

    # What comes of it

    def connected(self, attempt: Attempt, mask: int) -> None:
        self._client.connected(attempt, mask)

    def refused(self, reason: str) -> None:
        self.withdraw()
        self._client.refused(reason)

    def end(self) -> None:
        self.withdraw()
        self._client.cut()

    def fail(self, error: Exception) -> None:
        self._client.fail(error)
