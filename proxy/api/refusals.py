"""What was refused, in the log: enough of it to see that somebody tries, and not as often as somebody likes to try."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from proxy.api.access import NEEDED
from proxy.logs import facts

if TYPE_CHECKING:
    from starlette.types import Scope

    from proxy.api.errors import RequestError

_QUIET = 10.0  # seconds between two lines of one kind

log = logging.getLogger(__name__)


class Refusals:
    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def tell(self, scope: Scope, refusal: RequestError) -> None:
        """Whoever has not signed in yet is nobody's trouble."""
        if refusal.message == NEEDED:
            return
        now = trio.current_time()
        if now - self._told.get(refusal.code, -_QUIET) < _QUIET:
            return
        self._told[refusal.code] = now
        path, client = scope["path"][:100], address_of(scope)
        log.warning(
            "request refused", extra=facts(client=client, method=scope["method"], path=path, reason=refusal.message)
        )


def address_of(scope: Scope) -> str:
    """Where a request comes from, without the port; empty over a Unix socket."""
    client = scope.get("client")
    return str(client[0]) if client else ""
