"""Server-Sent Events (HTML Standard, section 9.2): every event as it happens, one JSON object each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import trio

from proxy.api.stream import while_wanted

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from proxy.api.live import Live
    from proxy.api.protocol import Control, Json

HEARTBEAT = 15.0  # seconds of silence after which a comment shows that the stream lives
_RETRY = b"retry: 1000\n\n"  # milliseconds until a browser tries again
_BATCH = 64  # events that are sent in one piece when they come faster than they go out

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # an nginx in front must not collect events
]


class EventStream:
    """An ASGI response: the events from now on, until the client leaves, the proxy stops or `closing` is set.

    The subscription stands before the response begins: whoever has seen the headers misses nothing that it causes.
    A client that is too slow makes its own stream end (see `Control.events`), and nobody else's.
    """

    def __init__(self, control: Control, closing: trio.Event) -> None:
        self._control = control
        self._closing = closing

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        with self._control.events() as events:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            async with while_wanted(receive, self._closing):
                await _forward(events, send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _forward(events: trio.MemoryReceiveChannel[Json], send: Send) -> None:
    while True:
        chunk = b":\n\n"
        with trio.move_on_after(HEARTBEAT):
            try:
                chunk = encode(await events.receive(), *_waiting(events))
            except trio.EndOfChannel:
                return
        await send({"type": "http.response.body", "body": chunk, "more_body": True})


class LiveStream:
    """An ASGI response: what the page shows (live.py), from now on."""

    def __init__(self, live: Live, closing: trio.Event) -> None:
        self._live = live
        self._closing = closing

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        with self._live.watch() as frames:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await send({"type": "http.response.body", "body": _RETRY, "more_body": True})
            async with while_wanted(receive, self._closing):
                async for frame in frames:
                    await send({"type": "http.response.body", "body": frame, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _waiting(events: trio.MemoryReceiveChannel[Json]) -> list[Json]:
    batch: list[Json] = []
    try:
        while len(batch) < _BATCH:
            batch.append(events.receive_nowait())
    except (trio.WouldBlock, trio.EndOfChannel):
        pass
    return batch


def encode(*events: Json) -> bytes:
    """One frame for each event: its type as the event's name, all of it as data."""
    return b"".join(
        b"event: %s\ndata: %s\n\n" % (str(event["type"]).encode(), json.dumps(event, separators=(",", ":")).encode())
        for event in events
    )
