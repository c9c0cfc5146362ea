"""The present request of a client: what is known of it, and what is counted and written down."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from proxy.core.http.answer import ANSWERS, render
from proxy.core.http.body import bytes_of, size_of
from proxy.relay.access_log import Entry

if TYPE_CHECKING:
    from proxy.core.http.head import RequestHead
    from proxy.relay.http.upstream import Upstream
    from proxy.relay.service import Service

HELD = 64 * 1024  # bytes of a request that are kept in case it has to be sent again


class Exchange:
    """One for each client, used again for each request.

    `head` is None while there is no request, and for what is not one. `held` is what was or is to be sent of it, or
    None once that is too much to keep. `uncounted` bytes of it were read but not yet counted.
    """

    __slots__ = ("head", "held", "is_owed", "sent", "started", "uncounted", "was_migrated", "was_retried")

    def __init__(self) -> None:
        self.head: RequestHead | None = None
        self.held: bytes | None = b""
        self.is_owed = False  # the response is not complete
        self.sent = 0  # bytes to the client
        self.started = 0.0
        self.uncounted = 0
        self.was_migrated = False  # it is the first one after the client has left a generation
        self.was_retried = False

    def begin(self, head: RequestHead, out: bytes, size: int, now: float) -> None:
        """A request has come, of which `size` bytes were read; `out` is what is to be sent for them."""
        self.head = head
        self.held = out
        self.uncounted = size
        self.started = now
        self.sent = 0

    def hold(self, data: memoryview) -> None:
        """Keep a piece of the body too, if that is not too much."""
        if self.held is not None:
            self.held = self.held + bytes(data) if len(self.held) + len(data) <= HELD else None

    def sent_first(self, size: int) -> None:
        """What is held was sent, `size` bytes: from now on it is only kept to be sent again."""
        self.uncounted = 0
        if size > HELD:
            self.held = None

    def end(self) -> None:
        self.head = None
        self.held = b""
        self.was_retried = False

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on in another worker: JSON values and bytes. The head is known from the reader."""
        return {
            "is_begun": self.head is not None,
            "held": self.held,
            "is_owed": self.is_owed,
            "sent": self.sent,
            "started": self.started,
            "uncounted": self.uncounted,
            "was_migrated": self.was_migrated,
            "was_retried": self.was_retried,
        }

    def restore(self, state: dict[str, Any], head: RequestHead | None) -> None:
        """Go on with the request whose head this is. Raises ValueError or KeyError for a state that makes no sense."""
        if state["is_begun"]:
            if head is None:
                raise ValueError("a request without a head")
            self.head = head
        self.held = None if state["held"] is None else bytes_of(state, "held")
        self.is_owed = bool(state["is_owed"])
        self.sent = size_of(state, "sent")
        self.started = float(state["started"])
        self.uncounted = size_of(state, "uncounted")
        self.was_migrated = bool(state["was_migrated"])
        self.was_retried = bool(state["was_retried"])

    @property
    def may_be_repeated(self) -> bool:
        """Whether to send it once more does no harm, and can be done (RFC 9110, 9.2.2)."""
        head = self.head
        return head is not None and head.is_idempotent and self.held is not None and not self.was_retried

    @property
    def allows_more(self) -> bool:
        """Whether the client's connection can stay open after an answer of our own."""
        head = self.head
        return head is not None and head.keep_alive and head.minor > 0

    def render(self, status: int, *, close: bool) -> bytes:
        """Return an answer of our own."""
        head = self.head
        return render(
            ANSWERS[status],
            accept=head.accept if head is not None else b"",
            is_head=head is not None and head.method == "HEAD",
            close=close,
            date=formatdate(usegmt=True),
        )

    def account(self, service: Service, client: str, status: int, upstream: Upstream | None) -> None:
        """Count a response, and write it down. A status of 0 is none: the client has left, or was cut off."""
        self.is_owed = False
        head = self.head
        seconds = service.engine.now - self.started if head is not None else 0.0
        if upstream is None:
            service.answered[status] += 1
        elif status:
            upstream.generation.answered(status, seconds)
        if service.access_log is not None:
            service.access_log.write(
                Entry(
                    time=time.time() - seconds,
                    client=client,
                    method=head.method if head is not None else "",
                    target=head.target if head is not None else "",
                    status=status,
                    bytes=self.sent,
                    duration=seconds,
                    service=service.name,
                    version=upstream.generation.version if upstream is not None else "",
                    generation=upstream.generation.number if upstream is not None else 0,
                    replica=upstream.endpoint.replica if upstream is not None else None,
                    retried=self.was_retried,
                    migrated=self.was_migrated,
                )
            )
        self.was_migrated = False
