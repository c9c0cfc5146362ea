"""Take what a client sends off Hypercorn's hands, whether or not anybody wants it.

Hypercorn queues ten parts of a body for the application and then waits, even with the message that says that the
request is over. A body in many parts, sent to an endpoint that does not read it, would leave its connection stuck for
ever, with everything that serves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from proxy.api.body import LIMIT

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Intake:
    """Middleware: the application receives one message with the body (cut once it is over `LIMIT`), then the end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(body.take, receive)
            await self._app(scope, body.receive, send)
            nursery.cancel_scope.cancel()


class _Body:
    def __init__(self) -> None:
        self._content = bytearray()
        self._complete = trio.Event()
        self._gone = trio.Event()
        self._handed_over = False

    async def take(self, receive: Receive) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            if len(self._content) <= LIMIT:
                self._content += message.get("body", b"")
            if len(self._content) > LIMIT or not message.get("more_body", False):
                self._complete.set()
        self._gone.set()
        self._complete.set()

    async def receive(self) -> Message:
        await self._complete.wait()
        if self._handed_over or self._gone.is_set():
            await self._gone.wait()
            return {"type": "http.disconnect"}
        self._handed_over = True
        return {"type": "http.request", "body": bytes(self._content), "more_body": False}
