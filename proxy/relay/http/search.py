"""A request on its way to a backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.relay.seeker import Seeker

if TYPE_CHECKING:
    from proxy.relay.attempt import Attempt
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
